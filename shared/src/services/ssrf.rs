//! The SSRF policy: which addresses and ports a callback may reach.
//!
//! Clients choose the URLs that the worker calls. Without a policy, a URL could make the worker
//! send requests into its own network (server-side request forgery, SSRF).
//!
//! * By default a callback may reach any public unicast address (IANA's special-purpose registries,
//!   RFC 6890), at any port except those where no HTTP is spoken.
//! * The operator changes that with an allow list, a deny list, a list of ports and a NAT64 prefix
//!   ([`PolicySettings`]). The deny list wins over the allow list.
//! * An IPv6 address inside the NAT64 prefix is checked as the IPv4 address that it embeds (RFC
//!   6052).
//! * `localhost` always stands for the two loopback addresses (RFC 6761), without a look-up.
//!
//! The policy is applied twice. The API calls [`Policy::check_url`] when a request is submitted: it
//! covers all that needs no look-up. The worker calls [`Policy::check_port`] and
//! [`Policy::check_address`] for every resolved address and dials exactly the addresses that it has
//! checked. A name that resolves to a different address at the second look-up (DNS rebinding)
//! therefore gains nothing.

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

use self::nat64::Embedded;
pub use self::{
    nat64::{Nat64, Nat64Error},
    nets::{AllowList, DenyList, NetsError},
    ports::{Ports, PortsError},
    rule::Rule,
};
use crate::models::CallbackUrl;

/// The SSRF policy. It is fixed for the life of a process and cheap to clone.
///
/// The default allows public unicast addresses only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    settings: Arc<PolicySettings>,
}

/// The operator's settings of the policy. The deny list wins over the allow list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySettings {
    /// Networks that are allowed although they are not public: the allow list.
    pub allow: AllowList,
    /// Networks that are refused although they are public or allowed: the deny list.
    pub deny: DenyList,
    /// The ports that callbacks may reach.
    pub ports: Ports,
    /// This network's NAT64 prefix. An address inside it is checked as the IPv4 address that it
    /// embeds.
    pub nat64: Option<Nat64>,
}

/// An address or port that the policy refuses, and the rule that refuses it.
///
/// `Display` names the address and is for operators. Show an API client only
/// [`PolicyViolation::class`]: the address would reveal how a name resolves inside the operator's
/// network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{subject} is refused as {rule}")]
pub struct PolicyViolation {
    /// The rule that refuses.
    pub rule: Rule,
    /// The refused address or port.
    pub subject: Subject,
}

/// The address or port that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An address in its canonical form, never an IPv4-mapped one.
    Address(IpAddr),
    /// An address inside the NAT64 prefix.
    Translated {
        /// The address that would have been dialled.
        address: Ipv6Addr,
        /// The embedded IPv4 address, to which the translator would send.
        embedded: Ipv4Addr,
    },
    /// A port. Ports are checked independently of the address.
    Port(u16),
}

impl Policy {
    /// The default policy with the allow list `allow`, in the format of `CALLBACK_ALLOW`.
    ///
    /// # Errors
    /// Those of [`AllowList::parse`].
    pub fn parse(allow: &str) -> Result<Self, NetsError> {
        let allow = AllowList::parse(allow)?;
        Ok(PolicySettings {
            allow,
            ..PolicySettings::default()
        }
        .into())
    }

    /// Allows every address and port. For URLs that the operator has chosen, and never for those of
    /// clients.
    pub fn unrestricted() -> Self {
        PolicySettings {
            allow: AllowList::everything(),
            ports: Ports::every(),
            ..PolicySettings::default()
        }
        .into()
    }

    /// Checks whether a callback may reach `port`.
    ///
    /// # Errors
    /// The violation, if it may not.
    pub fn check_port(&self, port: u16) -> Result<(), PolicyViolation> {
        if self.settings.ports.contains(port) {
            return Ok(());
        }
        Err(PolicyViolation {
            rule: Rule::Port,
            subject: Subject::Port(port),
        })
    }

    /// Checks whether a callback may reach `address`.
    ///
    /// # Errors
    /// The violation, if it may not.
    pub fn check_address(&self, address: IpAddr) -> Result<(), PolicyViolation> {
        // An IPv4-mapped address (`::ffff:a.b.c.d`) is dialled as IPv4, so it is checked as IPv4.
        let address = address.to_canonical();
        let embedded = self
            .settings
            .nat64
            .and_then(|prefix| prefix.embedded_in(address));
        match (address, embedded) {
            (IpAddr::V6(address), Some(Embedded::Address(embedded))) => {
                // The allow list and the deny list may name either form.
                let forms = [address.into(), embedded.into()];
                let rule = blocks::rule_against(embedded.into());
                self.check_lists(&forms, rule, Subject::Translated { address, embedded })
            }
            // Fail closed: which IPv4 host such an address reaches is up to the translator.
            (_, Some(Embedded::Invalid)) => {
                self.check_lists(&[address], Some(Rule::Reserved), Subject::Address(address))
            }
            _ => {
                let rule = blocks::rule_against(address);
                self.check_lists(&[address], rule, Subject::Address(address))
            }
        }
    }

    /// Applies the deny list, then the allow list, then `rule`, the rule against an address that is
    /// not public. `forms` are all the spellings under which a list may name the address.
    fn check_lists(
        &self,
        forms: &[IpAddr],
        rule: Option<Rule>,
        subject: Subject,
    ) -> Result<(), PolicyViolation> {
        let PolicySettings { allow, deny, .. } = &*self.settings;
        let refuse = |rule| Err(PolicyViolation { rule, subject });
        // The deny list first: it holds for public and for allowed addresses, too.
        if forms.iter().any(|form| deny.contains(*form)) {
            return refuse(Rule::Denied);
        }
        match rule {
            Some(rule) if !forms.iter().any(|form| allow.contains(*form)) => refuse(rule),
            _ => Ok(()),
        }
    }

    /// Checks as much of `url` as is known without a look-up: the port, a literal address in any
    /// spelling, and `localhost`. Any other host name passes.
    ///
    /// # Errors
    /// The violation by the port, by the literal address, or by either address of `localhost`.
    pub fn check_url(&self, url: &CallbackUrl) -> Result<(), PolicyViolation> {
        self.check_port(url.port())?;
        match url.url().host() {
            Some(Host::Ipv4(address)) => self.check_address(address.into()),
            Some(Host::Ipv6(address)) => self.check_address(address.into()),
            // Both addresses must pass, because a connection may use either.
            Some(Host::Domain(name)) => localhost_addresses(name)
                .into_iter()
                .flatten()
                .try_for_each(|address| self.check_address(address)),
            None => Ok(()), // `CallbackUrl` always has a host.
        }
    }
}

impl From<PolicySettings> for Policy {
    fn from(settings: PolicySettings) -> Self {
        Self {
            settings: Arc::new(settings),
        }
    }
}

impl PolicyViolation {
    /// The rule's name, such as `private`. This is all that an API client may see.
    pub const fn class(&self) -> &'static str {
        self.rule.name()
    }

    /// The refused address as it would have been dialled. `None` for a refused port.
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
            Self::Translated { address, embedded } => {
                write!(f, "{address} (NAT64 for {embedded})")
            }
            Self::Port(port) => write!(f, "port {port}"),
        }
    }
}

/// The two addresses of `localhost` and of every name under it (RFC 6761). `None` for any other
/// host.
///
/// Callers use this instead of a look-up, so that neither a hosts file nor a name server can point
/// `localhost` elsewhere.
pub fn localhost_addresses(host: &str) -> Option<[IpAddr; 2]> {
    // A final dot marks a name as absolute. It does not change the name.
    let host = host.strip_suffix('.').unwrap_or(host);
    let last_label = host.rsplit('.').next().unwrap_or(host);
    last_label.eq_ignore_ascii_case("localhost").then_some([
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ])
}
