//! What `CALLBACK_ALLOW` and `CALLBACK_DENY` may say.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use thiserror::Error;

/// Nets that callbacks may reach although they are not public: `CALLBACK_ALLOW`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList(Vec<IpNetwork>);

/// Nets that callbacks may not reach although they are public, or allowed: `CALLBACK_DENY`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DenyList(Vec<IpNetwork>);

/// Why a list of nets is refused, and what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NetsError {
    /// Not a CIDR.
    #[error(
        "`{0}` is no net; accepted are comma-separated CIDRs or addresses, such as \
         `127.0.0.0/8,::1,10.1.0.0/16`"
    )]
    NotANet(String),
    /// A net of so much that it must be a mistake, or of no address at all, to be allowed.
    #[error(
        "`{0}` would turn the guard off, or is misspelled; accepted are prefix lengths of at least {V4_PREFIX} \
         (IPv4) and {V6_PREFIX} (IPv6)"
    )]
    TooMuch(IpNetwork),
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

/// The shortest prefixes that may be allowed: those of the largest blocks that are not public, `240.0.0.0/4` and
/// `fc00::/7`. Two shorter ones could be everything.
const V4_PREFIX: u8 = 4;
const V6_PREFIX: u8 = 7;

/// The prefix length of `::ffff:0:0/96`.
const MAPPED_PREFIX: u8 = 96;

impl AllowList {
    /// Reads comma-separated CIDRs, where a bare address stands for itself. An empty text allows
    /// nothing.
    ///
    /// # Errors
    /// Something that is no CIDR; or a net of more than any block that is not public, of the unspecified
    /// address alone (which is `/0` misspelled), with host bits set, or of IPv4-mapped addresses (their
    /// IPv4 form is what is judged).
    pub fn parse(text: &str) -> Result<Self, NetsError> {
        let nets = parse(text)?;
        match nets.iter().find(|net| is_too_much(net)) {
            Some(net) => Err(NetsError::TooMuch(*net)),
            None => Ok(Self(nets)),
        }
    }

    pub(super) fn names(&self, address: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(address))
    }
}

impl DenyList {
    /// Reads comma-separated CIDRs, where a bare address stands for itself. An empty text denies
    /// nothing; `::/0` denies all of IPv6 and nothing of IPv4.
    ///
    /// # Errors
    /// Something that is no CIDR, or a net with host bits set or of IPv4-mapped addresses (their
    /// IPv4 form is what is judged).
    pub fn parse(text: &str) -> Result<Self, NetsError> {
        parse(text).map(Self)
    }

    pub(super) fn names(&self, address: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(address))
    }
}

fn is_too_much(net: &IpNetwork) -> bool {
    let (shortest, longest) = match net {
        IpNetwork::V4(_) => (V4_PREFIX, 32),
        IpNetwork::V6(_) => (V6_PREFIX, 128),
    };
    net.prefix() < shortest || (net.ip().is_unspecified() && net.prefix() == longest)
}

fn parse(text: &str) -> Result<Vec<IpNetwork>, NetsError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(str::trim).map(parse_net).collect()
}

fn parse_net(text: &str) -> Result<IpNetwork, NetsError> {
    let net = read(text).ok_or_else(|| NetsError::NotANet(text.to_owned()))?;
    if net.ip() != net.network() {
        return Err(NetsError::HostBits(net));
    }
    match net.ip() {
        IpAddr::V6(address)
            if address.to_ipv4_mapped().is_some() && net.prefix() >= MAPPED_PREFIX =>
        {
            Err(NetsError::Mapped(net))
        }
        _ => Ok(net),
    }
}

/// Stricter than `IpNetwork`'s own parser, which also reads netmasks, and a `+` or zeros before the length.
pub(super) fn read(text: &str) -> Option<IpNetwork> {
    let Some((address, prefix)) = text.split_once('/') else {
        return text.parse().ok().map(|address: IpAddr| address.into());
    };
    let has_zeros = prefix.len() > 1 && prefix.starts_with('0');
    if has_zeros || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    IpNetwork::new(address.parse().ok()?, prefix.parse().ok()?).ok()
}
