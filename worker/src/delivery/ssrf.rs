//! Resolves a URL's origin and checks it against the SSRF policy. The connector and `check-url`
//! share this code, so `check-url` reports exactly what the worker would do.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hyper::{Uri, http::uri::InvalidUri};
use storm_shared::{
    models::Origin,
    services::ssrf::{Policy, PolicyViolation, localhost_addresses},
};
use thiserror::Error;

use super::resolver::Resolve;

/// Checks a URL's origin: the SSRF policy, and the resolver of its host.
#[derive(Clone)]
pub struct SsrfFilter {
    /// Checks the port and every address.
    pub policy: Policy,
    /// Resolves names.
    pub resolver: Arc<dyn Resolve>,
}

/// The port and addresses of an origin with the result of each check, in the order of the checks.
#[derive(Debug)]
pub struct Resolution {
    /// The port. If it is refused, the host is not resolved.
    pub port: Result<u16, PolicyViolation>,
    /// The source of the addresses.
    pub source: AddressSource,
    /// Every address in canonical form with the result of its check, or the look-up error.
    pub addresses: io::Result<Vec<Result<IpAddr, PolicyViolation>>>,
}

/// The source of a host's addresses.
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
    Unresolved(#[source] io::Error),
}

impl SsrfFilter {
    /// Resolves `origin` with at most one look-up and checks its port and addresses. Has no timeout
    /// of its own; the caller applies one.
    pub async fn resolve(&self, origin: &Uri) -> Resolution {
        let https = origin.scheme_str() == Some("https");
        let port = origin.port_u16().unwrap_or(if https { 443 } else { 80 });
        let host = origin.host().unwrap_or_default();
        let (source, known) = known_addresses(host);
        let port = self.policy.check_port(port).map(|()| port);
        let addresses = match known {
            // A refused port is final: no name server has to be asked.
            _ if port.is_err() => Ok(Vec::new()),
            Some(addresses) => Ok(addresses),
            None => self.resolver.resolve(host).await,
        };
        Resolution {
            port,
            source,
            addresses: addresses.map(|addresses| self.check_all(&addresses)),
        }
    }

    /// Checks the canonical form of each address, which is also the form that is dialled. An
    /// IPv4-mapped IPv6 address is therefore checked as IPv4.
    fn check_all(&self, addresses: &[IpAddr]) -> Vec<Result<IpAddr, PolicyViolation>> {
        let canonical = addresses.iter().map(IpAddr::to_canonical);
        canonical
            .map(|address| self.policy.check_address(address).map(|()| address))
            .collect()
    }
}

impl Resolution {
    /// The addresses to dial, in order. One refused address refuses all of them.
    ///
    /// # Errors
    /// The port or an address is refused, or the name has no address.
    pub fn into_allowed(self) -> Result<Vec<SocketAddr>, Denial> {
        let port = self.port?;
        let judged = self.addresses.map_err(Denial::Unresolved)?;
        if judged.is_empty() {
            let none = io::Error::other("the name has no address");
            return Err(Denial::Unresolved(none));
        }
        // All or nothing: a name that mixes public and internal addresses is a DNS rebinding attack
        // or a mistake, and dialling its public ones would make the outcome a matter of chance.
        let addresses = judged.into_iter();
        Ok(addresses
            .map(|judged| judged.map(|address| SocketAddr::new(address, port)))
            .collect::<Result<_, _>>()?)
    }
}

/// `origin` as the connector takes it.
///
/// # Errors
/// The host is not valid in an HTTP URI. No origin is known to have such a host.
pub fn origin(origin: &Origin) -> Result<Uri, InvalidUri> {
    origin.as_str().parse()
}

/// The source of `host`'s addresses, and the addresses if they need no look-up.
fn known_addresses(host: &str) -> (AddressSource, Option<Vec<IpAddr>>) {
    if let Some(literal) = literal(host) {
        return (AddressSource::Literal, Some(vec![literal]));
    }
    match localhost_addresses(host) {
        Some(both) => (AddressSource::Localhost, Some(both.to_vec())),
        None => (AddressSource::LookUp, None),
    }
}

/// The address if `host` is a literal, with or without brackets.
fn literal(host: &str) -> Option<IpAddr> {
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(host).parse().ok()
}
