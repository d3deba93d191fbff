//! What `CALLBACK_ALLOW` may say.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use thiserror::Error;

/// Why a list of nets is refused, and what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AllowError {
    /// Not a CIDR.
    #[error(
        "`{0}` is no net; accepted are comma-separated CIDRs or addresses, such as \
         `127.0.0.0/8,::1,10.1.0.0/16`"
    )]
    NotANet(String),
    /// A net of everything.
    #[error("`{0}` would turn the guard off; accepted are prefix lengths of at least 1")]
    Everything(IpNetwork),
    /// Bits set beyond the prefix: either the address or the length is a mistake.
    #[error(
        "`{0}` has bits set beyond its prefix; accepted are the net `{net}/{prefix}` and the \
         address `{address}`",
        net = .0.network(), prefix = .0.prefix(), address = .0.ip()
    )]
    HostBits(IpNetwork),
    /// A net of IPv4-mapped addresses, which are judged as the IPv4 addresses that they carry.
    #[error("`{0}` is a net of IPv4-mapped addresses; accepted is its IPv4 form")]
    Mapped(IpNetwork),
}

/// The prefix length of `::ffff:0:0/96`.
const MAPPED_PREFIX: u8 = 96;

pub(super) fn parse(text: &str) -> Result<Vec<IpNetwork>, AllowError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    text.split(',')
        .map(str::trim)
        .map(|net| parse_net(net).ok_or_else(|| AllowError::NotANet(net.to_owned())))
        .collect()
}

pub(super) fn check(net: &IpNetwork) -> Result<(), AllowError> {
    if net.prefix() == 0 {
        return Err(AllowError::Everything(*net));
    }
    if net.ip() != net.network() {
        return Err(AllowError::HostBits(*net));
    }
    match net.ip() {
        IpAddr::V6(address)
            if address.to_ipv4_mapped().is_some() && net.prefix() >= MAPPED_PREFIX =>
        {
            Err(AllowError::Mapped(*net))
        }
        _ => Ok(()),
    }
}

/// Stricter than `IpNetwork`'s own parser, which also reads netmasks and a `+` before the length.
fn parse_net(text: &str) -> Option<IpNetwork> {
    let Some((address, prefix)) = text.split_once('/') else {
        return text.parse().ok().map(|address: IpAddr| address.into());
    };
    if !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    IpNetwork::new(address.parse().ok()?, prefix.parse().ok()?).ok()
}
