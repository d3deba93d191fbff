//! The address guard, against a table of IANA's registries that is kept apart from its own list.

#![allow(clippy::unwrap_used, reason = "a test ends where its premise fails")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use storm_shared::{
    models::CallbackUrl,
    services::guard::{AllowError, Policy, Rule, localhost_addresses},
};

const IPV4: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/data/iana-special-ipv4.csv"
));
const IPV6: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/data/iana-special-ipv6.csv"
));

/// A block of one of the registries, as numbers, so that neighbours are an addition away and
/// nothing of the guard's own arithmetic is used.
struct Block {
    v4: bool,
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

    /// The first and the last address, and those just before and after.
    fn edges(&self) -> impl Iterator<Item = IpAddr> {
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

    fn contains(&self, address: IpAddr) -> bool {
        let (v4, number) = match address {
            IpAddr::V4(address) => (true, u128::from(u32::from(address))),
            IpAddr::V6(address) => (false, u128::from(address)),
        };
        self.v4 == v4 && (self.first..=self.last).contains(&number)
    }
}

fn registries() -> Vec<Block> {
    let rows = IPV4.lines().chain(IPV6.lines());
    rows.filter(|row| !row.starts_with('#'))
        .map(Block::parse)
        .collect()
}

fn refused(url: &str) -> Option<Rule> {
    let url = CallbackUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
    Policy::default()
        .judge_url(&url)
        .err()
        .map(|refusal| refusal.rule)
}

#[test]
fn every_special_block_is_refused_to_its_edges_and_nothing_beyond() {
    let blocks = registries();
    let edges: BTreeSet<_> = blocks.iter().flat_map(Block::edges).collect();
    let mut allowed = 0;
    for address in edges {
        let special = blocks.iter().any(|block| block.contains(address));
        // The table has `::ffff:0:0/96` as a whole; what it carries is judged as IPv4.
        let mapped = address != address.to_canonical();
        let verdict = Policy::default().judge(address);
        if !mapped {
            assert_eq!(verdict.is_err(), special, "{address}: {verdict:?}");
        }
        allowed += u32::from(verdict.is_ok());
    }
    assert!(
        allowed > 30,
        "the neighbours of most blocks are public: {allowed}"
    );
}

#[test]
fn an_address_between_the_blocks_is_allowed() {
    for address in [
        "1.1.1.1",
        "8.8.8.8",
        "93.184.216.34",
        "2606:4700::1111",
        "2a00:1450::1",
    ] {
        assert_eq!(Policy::default().judge(address.parse().unwrap()), Ok(()));
    }
}

#[test]
fn an_ipv4_mapped_address_is_judged_as_the_ipv4_address_that_it_carries() {
    for block in registries().iter().filter(|block| block.v4) {
        for address in block.edges() {
            let IpAddr::V4(inner) = address else {
                unreachable!("an IPv4 block")
            };
            let policy = Policy::default();
            assert_eq!(
                policy.judge(inner.to_ipv6_mapped().into()),
                policy.judge(address)
            );
        }
    }
}

#[test]
fn a_refused_literal_is_refused_in_every_spelling() {
    for (url, rule) in [
        ("http://127.0.0.1/", Rule::Loopback),
        ("http://127.0.0.1./", Rule::Loopback),
        ("http://127.1/", Rule::Loopback),
        ("http://0x7f.1/", Rule::Loopback),
        ("http://0x7F000001/", Rule::Loopback),
        ("http://2130706433/", Rule::Loopback),
        ("http://017700000001/", Rule::Loopback),
        ("http://0177.0.0.0x1/", Rule::Loopback),
        ("http://%31%32%37.0.0.1/", Rule::Loopback),
        ("http://127%2E0%2E0%2E1/", Rule::Loopback),
        ("http://１２７.０.０.１/", Rule::Loopback),
        ("http://127。0。0。1/", Rule::Loopback),
        ("http://①②⑦.0.0.1/", Rule::Loopback),
        ("http:\\\\127.0.0.1\\", Rule::Loopback),
        ("http:127.0.0.1", Rule::Loopback),
        ("http://0/", Rule::Unspecified),
        ("http://169.254.169.254/latest/meta-data/", Rule::LinkLocal),
        ("http://[::1]/", Rule::Loopback),
        ("http://[0:0:0:0:0:0:0:1]:80/", Rule::Loopback),
        ("http://[::]/", Rule::Unspecified),
        ("http://[::ffff:10.0.0.1]/", Rule::Private),
        ("http://[::ffff:a00:1]", Rule::Private),
        ("http://[::FFFF:0A00:0001]", Rule::Private),
        ("http://[::127.0.0.1]/", Rule::Reserved),
        ("http://[64:ff9b::10.0.0.1]/", Rule::Reserved),
        ("http://[2002:a00:1::]/", Rule::Special),
        ("http://[fd00:ec2::254]/", Rule::Private),
    ] {
        assert_eq!(refused(url), Some(rule), "{url}");
    }
}

#[test]
fn localhost_is_refused_in_every_spelling() {
    for url in [
        "http://localhost/",
        "http://LOCALHOST:80",
        "http://localhost./",
        "http://a.localhost/",
        "http://a.b.LocalHost./",
        "http://%6cocalhost/",
        "http://ｌｏｃａｌｈｏｓｔ/",
    ] {
        assert_eq!(refused(url), Some(Rule::Loopback), "{url}");
    }
    for host in ["localhost.example.com", "notlocalhost", "localhost.com", ""] {
        assert_eq!(localhost_addresses(host), None, "{host}");
    }
}

#[test]
fn a_name_passes_until_it_is_resolved_and_a_public_literal_passes() {
    for url in [
        "https://example.com/",
        "http://10.0.0.1.nip.io/",
        "http://93.184.216.34:8080/",
    ] {
        assert_eq!(refused(url), None, "{url}");
    }
}

#[test]
fn localhost_is_allowed_only_when_both_of_its_addresses_are() {
    let url = CallbackUrl::parse("http://localhost/").unwrap();
    for (allow, refused) in [
        ("127.0.0.0/8", Some("::1")),
        ("::1", Some("127.0.0.1")),
        ("127.0.0.1,::1", None),
        ("127.0.0.0/8, ::1/128", None),
    ] {
        let verdict = Policy::parse(allow).unwrap().judge_url(&url);
        let address = verdict.err().map(|refusal| refusal.address.to_string());
        assert_eq!(address.as_deref(), refused, "{allow}");
    }
}

#[test]
fn an_allowed_net_exempts_exactly_itself() {
    let policy = Policy::parse("10.1.0.0/16,fd00:1::/32,192.168.1.1").unwrap();
    for (address, allowed) in [
        ("10.0.255.255", false),
        ("10.1.0.0", true),
        ("10.1.255.255", true),
        ("10.2.0.0", false),
        ("::ffff:10.1.0.0", true),
        ("::ffff:10.2.0.0", false),
        ("192.168.1.0", false),
        ("192.168.1.1", true),
        ("192.168.1.2", false),
        ("fd00:0:ffff:ffff:ffff:ffff:ffff:ffff", false),
        ("fd00:1::", true),
        ("fd00:2::", false),
        ("127.0.0.1", false),
        ("1.1.1.1", true),
    ] {
        assert_eq!(
            policy.judge(address.parse().unwrap()).is_ok(),
            allowed,
            "{address}"
        );
    }
}

#[test]
fn an_allow_list_that_says_too_much_or_nothing_is_refused() {
    for everything in ["0.0.0.0/0", "::/0", "127.0.0.0/8,0.0.0.0/0"] {
        assert!(matches!(
            Policy::parse(everything),
            Err(AllowError::Everything(_))
        ));
    }
    for host_bits in ["10.0.0.1/8", "::1/64", "1.2.3.4/0"] {
        assert!(Policy::parse(host_bits).is_err(), "{host_bits}");
    }
    for mapped in ["::ffff:10.0.0.0/104", "::ffff:10.0.0.1", "::ffff:0:0/96"] {
        assert!(
            matches!(Policy::parse(mapped), Err(AllowError::Mapped(_))),
            "{mapped}"
        );
    }
    for garbage in [
        "localhost",
        "10.0.0.0/33",
        "10.0.0.0/",
        "/8",
        "10/8",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/+8",
        "127.0.0.1:80",
        "127.0.0.0/8,",
        "127.0.0.0/8;10.0.0.0/8",
        "*",
        "[::1]",
    ] {
        assert!(
            matches!(Policy::parse(garbage), Err(AllowError::NotANet(_))),
            "{garbage}"
        );
    }
    assert_eq!(Policy::parse(" "), Ok(Policy::default()));
    assert_eq!(
        Policy::parse("10.0.0.1/8").unwrap_err().to_string(),
        "`10.0.0.1/8` has bits set beyond its prefix; accepted are the net `10.0.0.0/8` and the \
         address `10.0.0.1`"
    );
}

#[test]
fn a_refusal_tells_a_caller_the_rule_and_an_operator_the_address_too() {
    let refusal = Policy::default()
        .judge("::ffff:10.0.0.1".parse().unwrap())
        .unwrap_err();
    assert_eq!(refusal.class(), "private");
    assert_eq!(refusal.to_string(), "10.0.0.1 is refused as private");
}
