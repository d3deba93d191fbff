//! IANA's special-purpose address registries as number ranges. Independent of the SSRF policy's own
//! list and arithmetic, so that a mistake in one is not repeated in the other.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::OnceLock,
};

const IPV4: &str = include_str!("../data/iana-special-ipv4.csv");
const IPV6: &str = include_str!("../data/iana-special-ipv6.csv");

/// A block of a registry.
pub(crate) struct Block {
    pub(crate) v4: bool,
    first: u128,
    last: u128,
}

impl Block {
    fn parse(row: &str) -> Self {
        let block = row.split(';').next().unwrap();
        let (address, prefix) = block.split_once('/').unwrap();
        let address: IpAddr = address.parse().unwrap();
        let prefix: u32 = prefix.parse().unwrap();
        let (v4, first, bits) = match address {
            IpAddr::V4(address) => (true, u128::from(u32::from(address)), 32),
            IpAddr::V6(address) => (false, u128::from(address), 128),
        };
        let size_less_one = 1_u128
            .checked_shl(bits - prefix)
            .map_or(u128::MAX, |size| size - 1);
        assert_eq!(first & size_less_one, 0, "{row}");
        Self {
            v4,
            first,
            last: first + size_less_one,
        }
    }

    /// The first and the last address, and their neighbours just outside the block.
    pub(crate) fn edges(&self) -> impl Iterator<Item = IpAddr> {
        let before = self.first.checked_sub(1);
        let after = self
            .last
            .checked_add(1)
            .filter(|after| !self.v4 || *after <= u32::MAX.into());
        let v4 = self.v4;
        [before, Some(self.first), Some(self.last), after]
            .into_iter()
            .flatten()
            .map(move |number| {
                if v4 {
                    Ipv4Addr::from(u32::try_from(number).unwrap()).into()
                } else {
                    Ipv6Addr::from(number).into()
                }
            })
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let (v4, number) = match address {
            IpAddr::V4(address) => (true, u128::from(u32::from(address))),
            IpAddr::V6(address) => (false, u128::from(address)),
        };
        self.v4 == v4 && (self.first..=self.last).contains(&number)
    }
}

/// Every block of both registries, and the address ranges that are not unicast.
pub(crate) fn special() -> &'static [Block] {
    static BLOCKS: OnceLock<Vec<Block>> = OnceLock::new();
    BLOCKS.get_or_init(|| {
        let rows = IPV4.lines().chain(IPV6.lines());
        rows.filter(|row| !row.starts_with('#'))
            .map(Block::parse)
            .collect()
    })
}

/// Whether the registries list `address`, without looking into embedded IPv4 addresses.
pub(crate) fn is_special(address: IpAddr) -> bool {
    special().iter().any(|block| block.contains(address))
}
