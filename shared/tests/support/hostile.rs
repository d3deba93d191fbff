//! Generators for property tests: URLs of hostile callers and answers of hostile name servers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
};

use crate::iana;

/// Addresses of all kinds, mostly at the edges of special blocks, or special IPv4 addresses
/// embedded in IPv6.
pub(crate) fn address() -> impl Strategy<Value = IpAddr> {
    let edges: Vec<IpAddr> = iana::special()
        .iter()
        .flat_map(iana::Block::edges)
        .collect();
    let global = any::<u128>().prop_map(|bits| Ipv6Addr::from(0x2 << 124 | bits >> 3).into());
    prop_oneof![
        4 => select(edges),
        2 => any::<Ipv4Addr>().prop_map(IpAddr::V4),
        2 => global,
        1 => any::<Ipv6Addr>().prop_map(IpAddr::V6),
        1 => select(vec!["168.63.129.16", "169.254.169.254", "100.100.100.200", "fd00:ec2::254"])
            .prop_map(|metadata| metadata.parse().unwrap()),
        3 => (v4(), 0..DISGUISES.len()).prop_map(|(v4, which)| disguised(v4, DISGUISES[which])),
    ]
}

/// How IPv6 embeds IPv4: the prefix bits, and the number of bits after the IPv4 address.
const DISGUISES: [(u128, u32); 6] = [
    (0xffff << 32, 0),                     // IPv4-mapped
    (0, 0),                                // IPv4-compatible
    (0xffff << 48, 0),                     // IPv4-translated
    (0x64_ff9b << 96, 0),                  // NAT64
    (0x2002 << 112, 80),                   // 6to4
    (0x2606_4700 << 96 | 0x5efe << 32, 0), // ISATAP
];

fn disguised(v4: Ipv4Addr, (before, after): (u128, u32)) -> IpAddr {
    Ipv6Addr::from(before | u128::from(u32::from(v4)) << after).into()
}

/// IPv4 addresses, half of them special.
fn v4() -> impl Strategy<Value = Ipv4Addr> {
    let special = [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "192.168.1.1",
    ];
    let special = select(special.to_vec()).prop_map(|text| text.parse().unwrap());
    prop_oneof![any::<Ipv4Addr>(), special]
}

/// URLs that two parsers may read differently.
pub(crate) fn url() -> impl Strategy<Value = String> {
    let scheme = select(vec![
        "http", "https", "http", "https", "HTTP", "hTtPs", "ftp", "ws", "",
    ]);
    let slashes = select(vec![
        "://", "://", "://", ":", ":/", ":\\\\", ":///", ":/\\/", "//", ":/\t/",
    ]);
    let user = select(vec![
        "",
        "",
        "",
        "",
        "",
        "",
        "u@",
        "u:p@",
        "@",
        ":@",
        "8.8.8.8@",
        "8.8.8.8\\@",
    ]);
    let port = select(vec![
        "", "", "", ":", ":80", ":443", ":8080", ":00080", ":0", ":22", ":65535", ":65536",
        ":８０", ": 80",
    ]);
    let tail = select(vec![
        "",
        "/",
        "/hook?q=1#f",
        "?q",
        "#@8.8.8.8",
        "\\@8.8.8.8",
        "/a/../../b//",
        "/é\u{10ffff}?é#é",
        "/%00%zz",
        "/\"<>`{|}",
        "?'\"<>",
    ]);
    let noise = prop_oneof![4 => Just(None), 1 => (any::<Index>(), noise()).prop_map(Some)];
    (scheme, slashes, user, host(), port, tail, noise).prop_map(
        |(scheme, slashes, user, host, port, tail, noise)| {
            let text = format!("{scheme}{slashes}{user}{host}{port}{tail}");
            match noise {
                Some((place, noise)) => insert(&text, place, noise),
                None => text,
            }
        },
    )
}

/// Any text, mostly URLs and near-URLs.
pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => url(),
        1 => any::<String>(),
        1 => "https?://\\PC{0,40}",
        1 => "https?://[a-z0-9.\\[\\]:%@/\\\\-]{0,40}",
    ]
}

fn noise() -> impl Strategy<Value = &'static str> {
    select(vec![
        "\t", "\n", " ", "\0", "\u{ad}", "\u{200b}", "\u{feff}", "\u{3000}", "%00", "%0a", "%2e",
        "％", "[", "]", "@", "\\", "#", "/", ":", ".", "。", "xn--", "ß", "\u{202e}",
    ])
}

/// Inserts `noise` at a random place in `text`.
fn insert(text: &str, place: Index, noise: &str) -> String {
    let mut characters: Vec<_> = text.chars().collect();
    let place = place.index(characters.len() + 1);
    characters.splice(place..place, noise.chars());
    characters.into_iter().collect()
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (v4(), spelling()).prop_map(|(address, spelling)| spelling.of(address)),
        3 => (address(), 0..V6_FORMS.len()).prop_map(|(address, form)| V6_FORMS[form](address)),
        3 => select(NAMES.to_vec()).prop_map(str::to_owned),
        1 => "[a-z0-9_.-]{1,70}",
        1 => vec("[a-z]{1,63}", 1..6).prop_map(|labels| labels.join(".")),
        1 => "\\PC{0,12}",
    ]
}

const NAMES: [&str; 20] = [
    "example.com",
    "rebinding.example.",
    "localhost",
    "LOCALHOST.",
    "a.localhost",
    "localhost.example",
    "127.0.0.1.nip.io",
    "ip6-localhost",
    "metadata.google.internal",
    "a..b",
    ".",
    "..",
    "xn--bcher-kva.example",
    "bücher.example",
    "ｌｏｃａｌｈｏｓｔ",
    "lo\u{ad}calhost",
    "xn--a",
    "1.2.3.4.5",
    "0x.example",
    "-._",
];

/// Spellings of IPv6 addresses, and of IPv4 addresses in IPv6 form.
const V6_FORMS: [fn(IpAddr) -> String; 7] = [
    |address| format!("[{}]", as_v6(address)),
    |address| format!("[{}]", as_v6(address)).to_uppercase(),
    |address| as_v6(address).to_string(),
    |address| format!("[{}%25eth0]", as_v6(address)),
    |address| format!("[{address}]"),
    |address| {
        let groups = as_v6(address)
            .segments()
            .map(|group| format!("{group:04x}"));
        format!("[{}]", groups.join(":"))
    },
    |address| {
        let [a, b, c, d, e, f, g, h] = as_v6(address).segments();
        let [[g1, g2], [h1, h2]] = [g, h].map(u16::to_be_bytes);
        format!("[{a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x}:{g1}.{g2}.{h1}.{h2}]")
    },
];

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// A spelling of an IPv4 address.
#[derive(Clone, Debug)]
struct Spelling {
    /// The number of parts.
    parts: usize,
    /// The number base of each part.
    bases: [u8; 4],
    dot: &'static str,
    end: &'static str,
    letters: Letters,
}

#[derive(Clone, Copy, Debug)]
enum Letters {
    Plain,
    FullWidth,
    Percent,
}

fn spelling() -> impl Strategy<Value = Spelling> {
    let dot = select(vec![".", ".", ".", "。", "．", "｡", "%2e", "\u{ad}."]);
    let end = select(vec!["", "", "", ".", "..", "\u{200b}"]);
    let letters = select(vec![
        Letters::Plain,
        Letters::Plain,
        Letters::FullWidth,
        Letters::Percent,
    ]);
    (1..=4_usize, any::<[u8; 4]>(), dot, end, letters).prop_map(
        |(parts, bases, dot, end, letters)| Spelling {
            parts,
            bases,
            dot,
            end,
            letters,
        },
    )
}

impl Spelling {
    fn of(&self, address: Ipv4Addr) -> String {
        let octets = address.octets();
        let last = octets[self.parts - 1..]
            .iter()
            .fold(0_u32, |sum, octet| sum << 8 | u32::from(*octet));
        let first = octets[..self.parts - 1]
            .iter()
            .map(|octet| u32::from(*octet));
        let numbers = first
            .chain([last])
            .zip(self.bases)
            .map(|(number, base)| match base % 5 {
                0 | 1 => number.to_string(),
                2 => format!("0{number:o}"),
                3 => format!("0x{number:x}"),
                _ => format!("0X{number:08X}"),
            });
        let numbers: Vec<String> = numbers.map(|number| self.lettered(&number)).collect();
        numbers.join(self.dot) + self.end
    }

    fn lettered(&self, number: &str) -> String {
        let letter = |c: char| match self.letters {
            Letters::Plain => c.to_string(),
            Letters::FullWidth => char::from_u32(u32::from(c) + 0xfee0).unwrap().to_string(),
            Letters::Percent => format!("%{:02x}", u32::from(c)),
        };
        number.chars().map(letter).collect()
    }
}

/// The "bad ports" of the Fetch standard, independent of the SSRF policy's own list.
const BAD_PORTS: &str = "0 1 7 9 11 13 15 17 19 20 21 22 23 25 37 42 43 53 69 77 79 87 95 101 102 103 \
    104 109 110 111 113 115 117 119 123 135 137 139 143 161 179 389 427 465 512 513 514 515 526 530 531 \
    532 540 548 554 556 563 587 601 636 989 990 993 995 1719 1720 1723 2049 3659 4045 4190 5060 5061 6000 \
    6566 6665 6666 6667 6668 6669 6679 6697 10080";

/// Whether browsers block `port`.
pub(crate) fn is_bad_port(port: u16) -> bool {
    BAD_PORTS
        .split_whitespace()
        .any(|bad| bad == port.to_string())
}
