//! What `CALLBACK_NAT64` may say, and the IPv4 addresses that such a prefix carries (RFC 6052).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv6Network};
use thiserror::Error;

use super::nets;

/// The prefix by which this network reaches IPv4 through IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat64(Ipv6Network);

/// Why a text is no NAT64 prefix, and what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Nat64Error {
    /// Not one net of IPv6 with its length.
    #[error("`{0}` is no IPv6 prefix; accepted is one, such as `64:ff9b::/96`, or nothing")]
    NotAPrefix(String),
    /// A length that has no layout.
    #[error("a NAT64 prefix has a length of 32, 40, 48, 56, 64 or 96, not {0} (RFC 6052)")]
    Length(u8),
    /// Bits set beyond the prefix.
    #[error("`{0}` has bits set beyond its prefix; accepted is `{net}/{prefix}`",
        net = .0.network(), prefix = .0.prefix())]
    HostBits(Ipv6Network),
    /// Bits 64 to 71 of a prefix of length 96.
    #[error("`{0}` has bits set among its 64th to 71st, which are zero in every NAT64 address")]
    ReservedBits(Ipv6Network),
    /// Addresses that lead elsewhere, or nowhere.
    #[error(
        "`{0}` can be no NAT64 prefix; accepted are `64:ff9b::/96`, and prefixes inside of \
         `64:ff9b:1::/48`, `2000::/3` and `fc00::/7`"
    )]
    Elsewhere(Ipv6Network),
}

/// Byte 8 of an address is zero in every layout, and carries nothing.
const RESERVED_BYTE: usize = 8;

/// Where a NAT64 prefix can lie.
const POSSIBLE: [Ipv6Network; 4] = [
    net([0x64, 0xff9b, 0, 0], 96),
    net([0x64, 0xff9b, 1, 0], 48),
    net([0x2000, 0, 0, 0], 3),
    net([0xfc00, 0, 0, 0], 7),
];

/// Teredo and 6to4 carry IPv4 addresses in ways of their own.
const TAKEN: [Ipv6Network; 2] = [net([0x2001, 0, 0, 0], 32), net([0x2002, 0, 0, 0], 16)];

impl Nat64 {
    /// Reads a prefix; an empty text is none.
    ///
    /// # Errors
    /// What can be no NAT64 prefix by RFC 6052, or could only be a mistake.
    pub fn parse(text: &str) -> Result<Option<Self>, Nat64Error> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let Some(IpNetwork::V6(prefix)) = nets::read(text).filter(|_| text.contains('/')) else {
            return Err(Nat64Error::NotAPrefix(text.to_owned()));
        };
        if !matches!(prefix.prefix(), 32 | 40 | 48 | 56 | 64 | 96) {
            return Err(Nat64Error::Length(prefix.prefix()));
        }
        if prefix.ip() != prefix.network() {
            return Err(Nat64Error::HostBits(prefix));
        }
        let within = |outer: &Ipv6Network| prefix.is_subnet_of(*outer);
        if !POSSIBLE.iter().any(within) || TAKEN.iter().any(within) {
            return Err(Nat64Error::Elsewhere(prefix));
        }
        if prefix.ip().octets()[RESERVED_BYTE] != 0 {
            return Err(Nat64Error::ReservedBits(prefix));
        }
        Ok(Some(Self(prefix)))
    }

    /// What `address` carries; `None` if it is not inside of the prefix.
    pub(super) fn carried_by(self, address: IpAddr) -> Option<Carried> {
        let IpAddr::V6(address) = address else {
            return None;
        };
        self.0.contains(address).then(|| self.decode(address))
    }

    /// The four bytes after the prefix, without the reserved one.
    fn decode(self, address: Ipv6Addr) -> Carried {
        let octets = address.octets();
        if octets[RESERVED_BYTE] != 0 {
            return Carried::Nothing;
        }
        let mut places =
            (usize::from(self.0.prefix() / 8)..).filter(|place| *place != RESERVED_BYTE);
        let carried = [(); 4].map(|()| octets[places.next().unwrap_or_default()]);
        Carried::Address(carried.into())
    }
}

/// What an address inside of the prefix stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    /// An IPv4 address, to which the translator sends.
    Address(Ipv4Addr),
    /// No translator would know: a reserved bit is set.
    Nothing,
}

const fn net([a, b, c, d]: [u16; 4], prefix: u8) -> Ipv6Network {
    // Evaluated at compile time: a wrong prefix length doesn't build.
    Ipv6Network::new_checked(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), prefix)
        .expect("a length of at most 128")
}

#[cfg(test)]
mod tests {
    use super::{Carried, Nat64};

    /// The examples of RFC 6052, section 2.4.
    #[test]
    fn every_layout_of_the_rfc_is_decoded() {
        for (prefix, address) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
            ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
        ] {
            let nat64 = Nat64::parse(prefix).unwrap().unwrap();
            let carried = nat64.carried_by(address.parse().unwrap());
            let expected = Carried::Address("192.0.2.33".parse().unwrap());
            assert_eq!(carried, Some(expected), "{prefix}");
        }
    }

    #[test]
    fn an_address_with_a_reserved_bit_set_carries_nothing() {
        let nat64 = Nat64::parse("2001:db8:122::/48").unwrap().unwrap();
        for address in [
            "2001:db8:122:c000:100:0:2100:0",
            "2001:db8:122:c000:8002:2100::",
        ] {
            let carried = nat64.carried_by(address.parse().unwrap());
            assert_eq!(carried, Some(Carried::Nothing), "{address}");
        }
        assert_eq!(nat64.carried_by("2001:db8:123::".parse().unwrap()), None);
        assert_eq!(nat64.carried_by("192.0.2.33".parse().unwrap()), None);
    }
}
