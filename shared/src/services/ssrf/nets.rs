//! The allow list (`CALLBACK_ALLOW`) and the deny list (`CALLBACK_DENY`): networks in CIDR
//! notation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use thiserror::Error;

use crate::list;

/// Networks that callbacks may reach although they are not public: `CALLBACK_ALLOW`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList(Vec<IpNetwork>);

/// Networks that callbacks may not reach, even if they are public or allowed: `CALLBACK_DENY`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DenyList(Vec<IpNetwork>);

/// Why a list of networks is rejected, and what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NetsError {
    /// Not in CIDR notation.
    #[error(
        "`{0}` is not a network; expected CIDR networks or addresses, separated by commas or white \
         space, such as `127.0.0.0/8,::1,10.1.0.0/16`"
    )]
    NotANet(String),
    /// Commas without a network.
    #[error("it contains only separators; leave it empty for no network")]
    OnlySeparators,
    /// An allowed network that is so large, or so likely to be misspelled, that it must be a
    /// mistake.
    #[error(
        "`{0}` would disable the SSRF policy or is misspelled; expected a prefix length of at \
         least {MIN_V4_PREFIX} (IPv4) or {MIN_V6_PREFIX} (IPv6)"
    )]
    TooWide(IpNetwork),
    /// Bits set beyond the prefix: either the address or the length is a mistake.
    #[error(
        "`{0}` has bits set beyond its prefix; expected the network `{net}/{prefix}` or the \
         address `{address}`",
        net = .0.network(), prefix = .0.prefix(), address = .0.ip()
    )]
    HostBits(IpNetwork),
    /// A network of IPv4-mapped addresses. They are checked as IPv4 addresses, so it would never
    /// match.
    #[error("`{0}` is a network of IPv4-mapped addresses; expected its IPv4 form")]
    Mapped(IpNetwork),
}

/// The shortest prefixes that may be allowed: those of the largest blocks that are not public,
/// `240.0.0.0/4` and `fc00::/7`. A few networks with shorter prefixes could cover the whole
/// Internet.
const MIN_V4_PREFIX: u8 = 4;
const MIN_V6_PREFIX: u8 = 7;

/// The prefix length of `::ffff:0:0/96`.
const MAPPED_PREFIX: u8 = 96;

impl AllowList {
    /// Parses CIDR networks, separated by commas or white space. A bare address is a network of
    /// one. An empty text allows nothing.
    ///
    /// # Errors
    /// The first entry that is not in CIDR notation, is larger than any block that is not public,
    /// is the unspecified address alone (a misspelled `/0`), has host bits set, or consists of
    /// IPv4-mapped addresses.
    pub fn parse(text: &str) -> Result<Self, NetsError> {
        let nets = parse(text)?;
        match nets.iter().find(|net| is_too_wide(net)) {
            Some(net) => Err(NetsError::TooWide(*net)),
            None => Ok(Self(nets)),
        }
    }

    /// All networks.
    pub(super) fn everything() -> Self {
        let all = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        // A length of 0 is valid in both families.
        let all = all.map(|address: IpAddr| IpNetwork::new(address, 0));
        Self(all.into_iter().flatten().collect())
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(address))
    }
}

impl DenyList {
    /// Parses CIDR networks, separated by commas or white space. A bare address is a network of
    /// one. An empty text denies nothing. `::/0` denies all of IPv6 and nothing of IPv4.
    ///
    /// # Errors
    /// The first entry that is not in CIDR notation, has host bits set, or consists of IPv4-mapped
    /// addresses.
    pub fn parse(text: &str) -> Result<Self, NetsError> {
        parse(text).map(Self)
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(address))
    }
}

fn is_too_wide(net: &IpNetwork) -> bool {
    let (shortest, longest) = match net {
        IpNetwork::V4(_) => (MIN_V4_PREFIX, 32),
        IpNetwork::V6(_) => (MIN_V6_PREFIX, 128),
    };
    // `0.0.0.0` and `::` without a length parse as one address. They are a `/0` whose length was
    // forgotten.
    net.prefix() < shortest || (net.ip().is_unspecified() && net.prefix() == longest)
}

fn parse(text: &str) -> Result<Vec<IpNetwork>, NetsError> {
    let entries = list::entries(text).ok_or(NetsError::OnlySeparators)?;
    entries.into_iter().map(parse_net).collect()
}

fn parse_net(text: &str) -> Result<IpNetwork, NetsError> {
    let net = parse_cidr(text).ok_or_else(|| NetsError::NotANet(text.to_owned()))?;
    if net.ip() != net.network() {
        return Err(NetsError::HostBits(net));
    }
    match net.ip() {
        IpAddr::V6(address)
            // A shorter prefix contains other IPv6 addresses, too, so it can match.
            if address.to_ipv4_mapped().is_some() && net.prefix() >= MAPPED_PREFIX =>
        {
            Err(NetsError::Mapped(net))
        }
        _ => Ok(net),
    }
}

/// Parses one network. This is stricter than the parser of `IpNetwork`, which also accepts netmasks
/// and a `+` or zeros before the length.
pub(super) fn parse_cidr(text: &str) -> Option<IpNetwork> {
    let Some((address, prefix)) = text.split_once('/') else {
        return text.parse().ok().map(|address: IpAddr| address.into());
    };
    // A list with a doubtful spelling is refused: read wrongly, it would open or close a network.
    let has_zeros = prefix.len() > 1 && prefix.starts_with('0');
    if has_zeros || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    IpNetwork::new(address.parse().ok()?, prefix.parse().ok()?).ok()
}
