//! The NAT64 prefix (`CALLBACK_NAT64`) and the IPv4 addresses embedded behind it (RFC 6052).
//!
//! A network with NAT64 reaches IPv4 hosts through IPv6 addresses of the form prefix + IPv4
//! address. Without decoding them, `64:ff9b::10.0.0.1` would look public and lead to the private
//! `10.0.0.1`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv6Network};
use thiserror::Error;

use super::nets;

/// The prefix through which this network reaches IPv4 hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat64(Ipv6Network);

/// Why a text is not a NAT64 prefix, and what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Nat64Error {
    /// Not one IPv6 network with its prefix length.
    #[error("`{0}` is not an IPv6 prefix; expected nothing, or a prefix such as `64:ff9b::/96`")]
    NotAPrefix(String),
    /// A length for which RFC 6052 defines no layout.
    #[error("expected a prefix length of 32, 40, 48, 56, 64 or 96 (RFC 6052), not {0}")]
    Length(u8),
    /// Bits set beyond the prefix.
    #[error("`{0}` has bits set beyond its prefix; expected `{net}/{prefix}`",
        net = .0.network(), prefix = .0.prefix())]
    HostBits(Ipv6Network),
    /// Some of the bits 64 to 71 are set. Only a prefix of length 96 is long enough for that.
    #[error("`{0}` has a bit set among bits 64 to 71, which are zero in every NAT64 address")]
    ReservedBits(Ipv6Network),
    /// A prefix that has another use or is not routed.
    #[error(
        "`{0}` cannot be a NAT64 prefix; expected `64:ff9b::/96` or a prefix inside \
         `64:ff9b:1::/48`, `2000::/3` or `fc00::/7`"
    )]
    Elsewhere(Ipv6Network),
}

/// Byte 8 of an address (bits 64 to 71) is zero in every layout and holds no part of the IPv4
/// address.
const RESERVED_BYTE: usize = 8;

/// The networks that can contain a NAT64 prefix: the well-known prefix (RFC 6052), the local-use
/// prefix (RFC 8215), global unicast and unique local addresses.
const POSSIBLE: [Ipv6Network; 4] = [
    net([0x64, 0xff9b, 0, 0], 96),
    net([0x64, 0xff9b, 1, 0], 48),
    net([0x2000, 0, 0, 0], 3),
    net([0xfc00, 0, 0, 0], 7),
];

/// Teredo (RFC 4380) and 6to4 (RFC 3056), which embed IPv4 addresses in layouts of their own.
const OTHER_TRANSITION: [Ipv6Network; 2] = [net([0x2001, 0, 0, 0], 32), net([0x2002, 0, 0, 0], 16)];

impl Nat64 {
    /// Parses a prefix. An empty text means that there is none.
    ///
    /// # Errors
    /// The text is not a NAT64 prefix by RFC 6052, or can only be a mistake.
    pub fn parse(text: &str) -> Result<Option<Self>, Nat64Error> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        // `parse_cidr` takes a bare address for a network of one, which is not a prefix.
        let Some(IpNetwork::V6(prefix)) = nets::parse_cidr(text).filter(|_| text.contains('/'))
        else {
            return Err(Nat64Error::NotAPrefix(text.to_owned()));
        };
        if !matches!(prefix.prefix(), 32 | 40 | 48 | 56 | 64 | 96) {
            return Err(Nat64Error::Length(prefix.prefix()));
        }
        if prefix.ip() != prefix.network() {
            return Err(Nat64Error::HostBits(prefix));
        }
        let within = |outer: &Ipv6Network| prefix.is_subnet_of(*outer);
        // Elsewhere, the prefix would let a special address pass as the IPv4 address that its bytes
        // spell.
        if !POSSIBLE.iter().any(within) || OTHER_TRANSITION.iter().any(within) {
            return Err(Nat64Error::Elsewhere(prefix));
        }
        if prefix.ip().octets()[RESERVED_BYTE] != 0 {
            return Err(Nat64Error::ReservedBits(prefix));
        }
        Ok(Some(Self(prefix)))
    }

    /// The IPv4 address embedded in `address`. `None` if `address` is outside the prefix.
    pub(super) fn embedded_in(self, address: IpAddr) -> Option<Embedded> {
        let IpAddr::V6(address) = address else {
            return None;
        };
        self.0.contains(address).then(|| self.decode(address))
    }

    /// The four bytes that follow the prefix, skipping the reserved byte (RFC 6052, section 2.2).
    fn decode(self, address: Ipv6Addr) -> Embedded {
        let octets = address.octets();
        if octets[RESERVED_BYTE] != 0 {
            return Embedded::Invalid;
        }
        let mut indexes =
            (usize::from(self.0.prefix() / 8)..).filter(|index| *index != RESERVED_BYTE);
        // Never the default: of 16 bytes, at least four besides the reserved one follow each
        // prefix.
        let embedded = [(); 4].map(|()| octets[indexes.next().unwrap_or_default()]);
        Embedded::Address(embedded.into())
    }
}

/// The content of an address inside the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Embedded {
    /// The IPv4 address to which the translator sends.
    Address(Ipv4Addr),
    /// A reserved bit is set, so a translator may read any address from it.
    Invalid,
}

#[expect(
    clippy::expect_used,
    reason = "evaluated at compile time: a wrong prefix length does not build"
)]
const fn net([a, b, c, d]: [u16; 4], prefix: u8) -> Ipv6Network {
    Ipv6Network::new_checked(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), prefix)
        .expect("an IPv6 prefix has at most 128 bits")
}

#[cfg(test)]
mod tests {
    use super::{Embedded, Nat64};

    /// The examples of RFC 6052, section 2.4.
    #[test]
    fn every_layout_of_rfc_6052_is_decoded() {
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
            let embedded = nat64.embedded_in(address.parse().unwrap());
            let expected = Embedded::Address("192.0.2.33".parse().unwrap());
            assert_eq!(embedded, Some(expected), "{prefix}");
        }
    }

    #[test]
    fn an_address_with_a_reserved_bit_set_is_invalid() {
        let nat64 = Nat64::parse("2001:db8:122::/48").unwrap().unwrap();
        for address in [
            "2001:db8:122:c000:100:0:2100:0",
            "2001:db8:122:c000:8002:2100::",
        ] {
            let embedded = nat64.embedded_in(address.parse().unwrap());
            assert_eq!(embedded, Some(Embedded::Invalid), "{address}");
        }
        assert_eq!(nat64.embedded_in("2001:db8:123::".parse().unwrap()), None);
        assert_eq!(nat64.embedded_in("192.0.2.33".parse().unwrap()), None);
    }
}
