//! The judgement on where a URL leads: one for the connector, which dials by it, and for `check-url`,
//! which tells of it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hyper::{Uri, http::uri::InvalidUri};
use storm_shared::{
    models::CallbackUrl,
    services::ssrf::{Policy, PolicyViolation, localhost_addresses},
};
use thiserror::Error;

use super::resolver::Resolve;

/// What judges a URL's origin: the policy, and what tells where a name leads.
#[derive(Clone)]
pub struct SsrfFilter {
    /// What judges the port and every address.
    pub policy: Policy,
    /// What looks names up.
    pub resolver: Arc<dyn Resolve>,
}

/// What the guard found out about an origin, in the order in which it did.
#[derive(Debug)]
pub struct Findings {
    /// The port. Where it is refused, nothing is looked up.
    pub port: Result<u16, PolicyViolation>,
    /// Where the addresses are from.
    pub source: AddressSource,
    /// Every address, in its canonical form, with its own verdict; or why there is none.
    pub addresses: io::Result<Vec<Result<IpAddr, PolicyViolation>>>,
}

/// Where a host's addresses are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// The host is an address.
    Literal,
    /// The host is `localhost`, or a name under it.
    Localhost,
    /// A look-up of the name.
    LookUp,
}

/// Why an origin is not dialled.
#[derive(Debug, Error)]
pub enum Denial {
    /// The policy forbids its port, or one of its addresses.
    #[error(transparent)]
    Refused(#[from] PolicyViolation),
    /// Its name has no address, or the look-up failed.
    #[error("{0}")]
    Unresolved(io::Error),
}

impl SsrfFilter {
    /// Finds out where `origin` leads: one look-up at most, which only the caller bounds in time.
    pub async fn examine(&self, origin: &Uri) -> Findings {
        let https = origin.scheme_str() == Some("https");
        let port = origin.port_u16().unwrap_or(if https { 443 } else { 80 });
        let host = origin.host().unwrap_or_default();
        let (source, known) = known_addresses(host);
        let port = self.policy.check_port(port).map(|()| port);
        let addresses = match known {
            _ if port.is_err() => Ok(Vec::new()),
            Some(addresses) => Ok(addresses),
            None => self.resolver.resolve(host).await,
        };
        Findings {
            port,
            source,
            addresses: addresses.map(|addresses| self.judge_all(&addresses)),
        }
    }

    /// What is judged is the canonical form, so that is what is dialled.
    fn judge_all(&self, addresses: &[IpAddr]) -> Vec<Result<IpAddr, PolicyViolation>> {
        let canonical = addresses.iter().map(IpAddr::to_canonical);
        canonical
            .map(|address| self.policy.check_address(address).map(|()| address))
            .collect()
    }
}

impl Findings {
    /// What may be dialled, in that order: all of the addresses, or, where a single one is refused,
    /// nothing.
    ///
    /// # Errors
    /// Why nothing may.
    pub fn verdict(self) -> Result<Vec<SocketAddr>, Denial> {
        let port = self.port?;
        let judged = self.addresses.map_err(Denial::Unresolved)?;
        if judged.is_empty() {
            let none = io::Error::other("the name has no address");
            return Err(Denial::Unresolved(none));
        }
        let addresses = judged.into_iter();
        Ok(addresses
            .map(|judged| judged.map(|address| SocketAddr::new(address, port)))
            .collect::<Result<_, _>>()?)
    }
}

/// The part of `url` that is dialled, as the connector is told of it.
///
/// # Errors
/// A host that HTTP can't carry; no `CallbackUrl` is known to have one.
pub fn origin(url: &CallbackUrl) -> Result<Uri, InvalidUri> {
    url.origin().parse()
}

/// The addresses of `host`, unless they have to be looked up.
fn known_addresses(host: &str) -> (AddressSource, Option<Vec<IpAddr>>) {
    if let Some(literal) = literal(host) {
        return (AddressSource::Literal, Some(vec![literal]));
    }
    match localhost_addresses(host) {
        Some(both) => (AddressSource::Localhost, Some(both.to_vec())),
        None => (AddressSource::LookUp, None),
    }
}

/// The address that `host` spells, in brackets or not.
fn literal(host: &str) -> Option<IpAddr> {
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(host).parse().ok()
}
