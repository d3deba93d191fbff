//! The address blocks that are not public unicast.
//!
//! Sources: IANA's special-purpose address registries (RFC 6890) and address space registries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};

use super::rule::Rule;

/// The rule against `address`, or `None` if it is public. `address` must be in canonical form: an
/// IPv4-mapped address would be taken for IPv6.
pub(super) fn rule_against(address: IpAddr) -> Option<Rule> {
    match address {
        IpAddr::V4(address) => rule_against_v4(address),
        IpAddr::V6(address) => rule_against_v6(address),
    }
}

/// An IPv4 address is public unless one of the blocks contains it.
fn rule_against_v4(address: Ipv4Addr) -> Option<Rule> {
    let block = V4
        .iter()
        .find(|(net, _)| net.contains(address))
        .map(|(_, rule)| *rule);
    block.or_else(|| METADATA.contains(&address).then_some(Rule::Metadata))
}

/// An IPv6 address is public if `2000::/3` contains it and none of the blocks does.
fn rule_against_v6(address: Ipv6Addr) -> Option<Rule> {
    match address {
        Ipv6Addr::UNSPECIFIED => return Some(Rule::Unspecified),
        Ipv6Addr::LOCALHOST => return Some(Rule::Loopback),
        _ => {}
    }
    // The blocks before the catch-all, so that a refusal has the name of its own rule.
    let block = V6
        .iter()
        .find(|(net, _)| net.contains(address))
        .map(|(_, rule)| *rule);
    block.or_else(|| (!GLOBAL_UNICAST.contains(address)).then_some(Rule::Reserved))
}

/// Blocks do not overlap, so the order does not matter.
const V4: [(Ipv4Network, Rule); 18] = [
    (v4([0, 0, 0, 0], 8), Rule::Unspecified),
    (v4([10, 0, 0, 0], 8), Rule::Private),
    (v4([100, 64, 0, 0], 10), Rule::Shared),
    (v4([127, 0, 0, 0], 8), Rule::Loopback),
    (v4([169, 254, 0, 0], 16), Rule::LinkLocal),
    (v4([172, 16, 0, 0], 12), Rule::Private),
    (v4([192, 0, 0, 0], 24), Rule::Special), // IETF protocol assignments
    (v4([192, 0, 2, 0], 24), Rule::Documentation),
    (v4([192, 31, 196, 0], 24), Rule::Special), // AS112
    (v4([192, 52, 193, 0], 24), Rule::Special), // AMT
    (v4([192, 88, 99, 0], 24), Rule::Special),  // 6to4 relays
    (v4([192, 168, 0, 0], 16), Rule::Private),
    (v4([192, 175, 48, 0], 24), Rule::Special), // AS112
    (v4([198, 18, 0, 0], 15), Rule::Benchmarking),
    (v4([198, 51, 100, 0], 24), Rule::Documentation),
    (v4([203, 0, 113, 0], 24), Rule::Documentation),
    (v4([224, 0, 0, 0], 4), Rule::Multicast),
    (v4([240, 0, 0, 0], 4), Rule::Reserved), // with 255.255.255.255, broadcast
];

/// Metadata services of clouds at addresses that look public. Those of other clouds are link-local,
/// shared or unique local addresses, which the blocks cover.
const METADATA: [Ipv4Addr; 2] = [
    Ipv4Addr::new(168, 63, 129, 16), // Azure's platform ("wire server")
    Ipv4Addr::new(192, 80, 8, 124),  // Equinix Metal
];

/// The only IPv6 space that IANA hands out as global unicast.
const GLOBAL_UNICAST: Ipv6Network = v6(0x2000_0000_0000_0000, 3);

/// Special blocks inside `2000::/3`, and blocks outside it that have a rule of their own.
const V6: [(Ipv6Network, Rule); 8] = [
    (v6(0x2001_0000_0000_0000, 23), Rule::Special), // IETF protocol assignments, with Teredo
    (v6(0x2001_0db8_0000_0000, 32), Rule::Documentation),
    (v6(0x2002_0000_0000_0000, 16), Rule::Special), // 6to4
    (v6(0x2620_004f_8000_0000, 48), Rule::Special), // AS112
    (v6(0x3fff_0000_0000_0000, 20), Rule::Documentation),
    (v6(0xfc00_0000_0000_0000, 7), Rule::Private),
    (v6(0xfe80_0000_0000_0000, 10), Rule::LinkLocal),
    (v6(0xff00_0000_0000_0000, 8), Rule::Multicast),
];

/// A block by its address and prefix length.
#[expect(
    clippy::expect_used,
    reason = "evaluated at compile time: a wrong prefix length does not build"
)]
const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Network {
    Ipv4Network::new_checked(Ipv4Addr::new(a, b, c, d), prefix)
        .expect("an IPv4 prefix has at most 32 bits")
}

/// A block by the upper half of its address and its prefix length.
#[expect(
    clippy::expect_used,
    reason = "evaluated at compile time: a wrong prefix length does not build"
)]
const fn v6(upper: u64, prefix: u8) -> Ipv6Network {
    // `as`, because `u128::from` is not const.
    Ipv6Network::new_checked(Ipv6Addr::from_bits((upper as u128) << 64), prefix)
        .expect("an IPv6 prefix has at most 128 bits")
}
