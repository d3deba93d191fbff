//! The address guard: where a callback may go, decided on the address itself.
//!
//! Callers choose the URLs that the worker dials, so a name or a literal must never lead it into
//! the network that it stands in. The policy: public unicast addresses only, plus what the
//! operator names in `CALLBACK_ALLOW`. The API asks it at submission about what needs no look-up
//! ([`Policy::judge_url`]); the worker asks it about every address before it is dialled
//! ([`Policy::judge`]).

mod allow;
mod blocks;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

use ipnetwork::IpNetwork;
use thiserror::Error;
use url::Host;

pub use self::{allow::AllowError, blocks::Rule};
use crate::models::CallbackUrl;

/// Which addresses callbacks may reach; fixed for the life of a process, cheap to clone.
///
/// The default allows public unicast addresses and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    allowed: Arc<[IpNetwork]>,
}

/// An address that callbacks may not reach, and the rule that says so.
///
/// `Display` names the address: it is for operators. A caller sees [`Refusal::class`] only, or a
/// name would tell what it resolves to inside the operator's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{address} is refused as {rule}")]
pub struct Refusal {
    /// The rule that refused.
    pub rule: Rule,
    /// The refused address in its canonical form, never an IPv4-mapped one.
    pub address: IpAddr,
}

impl Policy {
    /// A policy that exempts `allowed` from the refusal of what is not public.
    ///
    /// # Errors
    /// A net of prefix length 0, with host bits set, or of IPv4-mapped addresses (their IPv4 form
    /// is what is judged).
    pub fn new(allowed: Vec<IpNetwork>) -> Result<Self, AllowError> {
        allowed.iter().try_for_each(allow::check)?;
        Ok(Self {
            allowed: allowed.into(),
        })
    }

    /// Reads `CALLBACK_ALLOW`: comma-separated CIDRs, where a bare address stands for itself.
    /// An empty text allows nothing.
    ///
    /// # Errors
    /// As [`Policy::new`], or something that is no CIDR.
    pub fn parse(text: &str) -> Result<Self, AllowError> {
        Self::new(allow::parse(text)?)
    }

    /// Whether a callback may reach `address`.
    ///
    /// # Errors
    /// The refusal, if it may not.
    pub fn judge(&self, address: IpAddr) -> Result<(), Refusal> {
        let address = address.to_canonical();
        match blocks::rule_against(address) {
            Some(rule) if !self.allowed.iter().any(|net| net.contains(address)) => {
                Err(Refusal { rule, address })
            }
            _ => Ok(()),
        }
    }

    /// Whether `url` may be called, as far as that is known without a look-up: literal addresses
    /// in any spelling, and the names that mean this host. Any other name passes.
    ///
    /// # Errors
    /// The refusal of the literal, or of either of localhost's two addresses.
    pub fn judge_url(&self, url: &CallbackUrl) -> Result<(), Refusal> {
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

impl FromStr for Policy {
    type Err = AllowError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Refusal {
    /// What an API's caller may know: the rule's name, such as `private`.
    pub const fn class(&self) -> &'static str {
        self.rule.name()
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
