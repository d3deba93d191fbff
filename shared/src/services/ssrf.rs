//! The guard: where a callback may go, decided on the address and the port themselves.
//!
//! Callers choose the URLs that the worker dials, so a name or a literal must never lead it into
//! the network that it stands in. The policy: public unicast addresses only, at any port but those
//! where no HTTP is spoken; and what the operator says otherwise ([`Terms`]). The API asks it at
//! submission about what needs no look-up ([`Policy::judge_url`]); the worker asks it about the port
//! and every address before one is dialled ([`Policy::judge_port`], [`Policy::judge`]).

mod blocks;
mod nat64;
mod nets;
mod ports;
mod rule;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use thiserror::Error;
use url::Host;

use self::nat64::Carried;
pub use self::{
    nat64::{Nat64, Nat64Error},
    nets::{AllowList, DenyList, NetsError},
    ports::{Ports, PortsError},
    rule::Rule,
};
use crate::models::CallbackUrl;

/// Where callbacks may go; fixed for the life of a process, cheap to clone.
///
/// The default allows public unicast addresses and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    terms: Arc<Terms>,
}

/// What the operator says of where callbacks may go. What is denied is refused whatever is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Exempt from the refusal of what is not public.
    pub allow: AllowList,
    /// Refused although it is public, or allowed.
    pub deny: DenyList,
    /// The ports that may be reached.
    pub ports: Ports,
    /// The prefix, if any, whose addresses are judged as the IPv4 addresses that they carry.
    pub nat64: Option<Nat64>,
}

/// Where callbacks may not go, and the rule that says so.
///
/// `Display` names the address: it is for operators. A caller sees [`PolicyViolation::class`] only, or a
/// name would tell what it resolves to inside the operator's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{subject} is refused as {rule}")]
pub struct PolicyViolation {
    /// The rule that refused.
    pub rule: Rule,
    /// What it refused.
    pub subject: Subject,
}

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An address in its canonical form, never an IPv4-mapped one.
    Address(IpAddr),
    /// An address inside of the NAT64 prefix.
    Translated {
        /// What would have been dialled.
        address: Ipv6Addr,
        /// Where that leads.
        carried: Ipv4Addr,
    },
    /// A port, whatever the address.
    Port(u16),
}

impl Policy {
    /// A policy that allows `allow` (as `CALLBACK_ALLOW` has it) beside what is public.
    ///
    /// # Errors
    /// As [`AllowList::parse`].
    pub fn parse(allow: &str) -> Result<Self, NetsError> {
        let allow = AllowList::parse(allow)?;
        Ok(Terms {
            allow,
            ..Terms::default()
        }
        .into())
    }

    /// Whether a callback may reach `port`.
    ///
    /// # Errors
    /// The refusal, if it may not.
    pub fn judge_port(&self, port: u16) -> Result<(), PolicyViolation> {
        if self.terms.ports.contain(port) {
            return Ok(());
        }
        Err(PolicyViolation {
            rule: Rule::Port,
            subject: Subject::Port(port),
        })
    }

    /// Whether a callback may reach `address`.
    ///
    /// # Errors
    /// The refusal, if it may not.
    pub fn judge(&self, address: IpAddr) -> Result<(), PolicyViolation> {
        let address = address.to_canonical();
        let carried = self
            .terms
            .nat64
            .and_then(|prefix| prefix.carried_by(address));
        match (address, carried) {
            (IpAddr::V6(address), Some(Carried::Address(carried))) => {
                // A list may name it by either form.
                let forms = [address.into(), carried.into()];
                let rule = blocks::rule_against(carried.into());
                self.weigh(&forms, rule, Subject::Translated { address, carried })
            }
            (_, carried) => {
                let rule = carried.map_or_else(
                    || blocks::rule_against(address),
                    |_nothing| Some(Rule::Reserved),
                );
                self.weigh(&[address], rule, Subject::Address(address))
            }
        }
    }

    /// The verdict on a subject of those `forms`, which is public unless there is a `rule`.
    fn weigh(
        &self,
        forms: &[IpAddr],
        rule: Option<Rule>,
        subject: Subject,
    ) -> Result<(), PolicyViolation> {
        let Terms { allow, deny, .. } = &*self.terms;
        let refuse = |rule| Err(PolicyViolation { rule, subject });
        if forms.iter().any(|form| deny.names(*form)) {
            return refuse(Rule::Denied);
        }
        match rule {
            Some(rule) if !forms.iter().any(|form| allow.names(*form)) => refuse(rule),
            _ => Ok(()),
        }
    }

    /// Whether `url` may be called, as far as that is known without a look-up: its port, literal
    /// addresses in any spelling, and the names that mean this host. Any other name passes.
    ///
    /// # Errors
    /// The refusal of the port, of the literal, or of either of localhost's two addresses.
    pub fn judge_url(&self, url: &CallbackUrl) -> Result<(), PolicyViolation> {
        self.judge_port(url.port())?;
        match url.url().host() {
            Some(Host::Ipv4(address)) => self.judge(address.into()),
            Some(Host::Ipv6(address)) => self.judge(address.into()),
            Some(Host::Domain(name)) => localhost_addresses(name)
                .into_iter()
                .flatten()
                .try_for_each(|address| self.judge(address)),
            None => Ok(()), // a CallbackUrl always has a host
        }
    }
}

impl From<Terms> for Policy {
    fn from(terms: Terms) -> Self {
        Self {
            terms: Arc::new(terms),
        }
    }
}

impl PolicyViolation {
    /// What an API's caller may know: the rule's name, such as `private`.
    pub const fn class(&self) -> &'static str {
        self.rule.name()
    }

    /// The refused address, as it would have been dialled; a port has none.
    pub const fn address(&self) -> Option<IpAddr> {
        match self.subject {
            Subject::Address(address) => Some(address),
            Subject::Translated { address, .. } => Some(IpAddr::V6(address)),
            Subject::Port(_) => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Translated { address, carried } => write!(f, "{address} (NAT64 for {carried})"),
            Self::Port(port) => write!(f, "port {port}"),
        }
    }
}

/// The two addresses that `localhost` and every name under it stand for (RFC 6761); `None` for
/// any other host.
///
/// Answering here keeps a hosts file or a name server from having a say.
pub fn localhost_addresses(host: &str) -> Option<[IpAddr; 2]> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last_label = host.rsplit('.').next().unwrap_or(host);
    last_label.eq_ignore_ascii_case("localhost").then_some([
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ])
}
