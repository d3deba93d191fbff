//! The SSRF policy, against a table of IANA's registries that is independent of its own list.

mod fuzz;
mod terms;

use std::{collections::BTreeSet, net::IpAddr};

use storm_shared::{
    models::CallbackUrl,
    services::ssrf::{Policy, Rule, localhost_addresses},
};

use crate::iana::{self, Block};

fn refused(url: &str) -> Option<Rule> {
    let url = CallbackUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
    Policy::default()
        .check_url(&url)
        .err()
        .map(|refusal| refusal.rule)
}

#[test]
fn every_special_block_is_refused_exactly_to_its_edges() {
    let blocks = iana::special();
    let edges: BTreeSet<_> = blocks.iter().flat_map(Block::edges).collect();
    let mut allowed = 0;
    for address in edges {
        let special = blocks.iter().any(|block| block.contains(address));
        // The registry lists `::ffff:0:0/96` as a whole; the policy judges the embedded IPv4.
        let mapped = address != address.to_canonical();
        let verdict = Policy::default().check_address(address);
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
fn an_unrestricted_policy_allows_every_address_and_port() {
    let policy = Policy::unrestricted();
    for address in [
        "0.0.0.0",
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "255.255.255.255",
        "1.1.1.1",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "2606:4700::1111",
    ] {
        assert_eq!(
            policy.check_address(address.parse().unwrap()),
            Ok(()),
            "{address}"
        );
    }
    for port in [1, 22, 6000, 8080, 65535] {
        assert_eq!(policy.check_port(port), Ok(()), "{port}");
    }
}

#[test]
fn a_public_address_is_allowed() {
    for address in [
        "1.1.1.1",
        "8.8.8.8",
        "93.184.216.34",
        "2606:4700::1111",
        "2a00:1450::1",
    ] {
        assert_eq!(
            Policy::default().check_address(address.parse().unwrap()),
            Ok(())
        );
    }
}

#[test]
fn an_ipv4_mapped_address_is_judged_as_its_embedded_ipv4_address() {
    for block in iana::special().iter().filter(|block| block.v4) {
        for address in block.edges() {
            let IpAddr::V4(inner) = address else {
                panic!("an IPv4 block has IPv4 edges")
            };
            let policy = Policy::default();
            assert_eq!(
                policy.check_address(inner.to_ipv6_mapped().into()),
                policy.check_address(address)
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
fn a_host_name_and_a_public_literal_pass_the_url_check() {
    for url in [
        "https://example.com/",
        "http://10.0.0.1.nip.io/",
        "http://93.184.216.34:8080/",
    ] {
        assert_eq!(refused(url), None, "{url}");
    }
}

#[test]
fn an_address_just_outside_a_special_block_is_public() {
    for address in [
        "192.0.1.1",
        "192.88.98.1",
        "198.17.255.255",
        "198.20.0.0",
        "100.63.255.255",
        "100.128.0.1",
        "172.15.255.255",
        "172.32.0.0",
        "223.255.255.255",
        "2001:200::1",
        "2003::1",
        "2620:4f:7fff::1",
        "2620:4f:8001::1",
        "2c0f::1",
        "3ffe:ffff::1",
        "3fff:1000::1",
    ] {
        assert_eq!(
            Policy::default().check_address(address.parse().unwrap()),
            Ok(())
        );
    }
}

#[test]
fn a_url_is_judged_by_the_host_it_connects_to_not_by_the_host_it_resembles() {
    for (url, rule) in [
        ("http://127.0.0.1:80\\@8.8.8.8/", Rule::Loopback),
        ("http://127.0.0.1/@8.8.8.8", Rule::Loopback),
        ("http://127.0.0.1#@8.8.8.8/", Rule::Loopback),
        ("http://127.0.0.1?@8.8.8.8/", Rule::Loopback),
        ("http:/127.0.0.1/", Rule::Loopback),
        ("http:////127.0.0.1/", Rule::Loopback),
        ("http:/\\/127.0.0.1/", Rule::Loopback),
        ("http://127.0\u{ad}.0.1/", Rule::Loopback),
        ("http://lo\u{ad}cal\u{200b}host/", Rule::Loopback),
        ("http://0x7f.0.0.1/", Rule::Loopback),
        ("http://0177.0.0.1/", Rule::Loopback),
        ("http://00000000000000000177.0.0.1/", Rule::Loopback),
        ("http://127.0.0.1.:80/", Rule::Loopback),
        ("http://127.16777215/", Rule::Loopback),
        ("http://[0:0:0:0:0:ffff:127.0.0.1]/", Rule::Loopback),
        ("http://[::ffff:0:127.0.0.1]/", Rule::Reserved),
        ("http://[::5efe:127.0.0.1]/", Rule::Reserved),
        ("http://[fe80::5efe:7f00:1]/", Rule::LinkLocal),
        ("http://[2002:7f00:1::]/", Rule::Special),
        ("http://[2001:0:7f00:1::]/", Rule::Special),
        ("http://[64:ff9b::7f00:1]/", Rule::Reserved),
        ("http://[64:ff9b:1::7f00:1]/", Rule::Reserved),
        ("http://[fec0::1]/", Rule::Reserved),
        ("http://[100:0:0:1::1]/", Rule::Reserved),
        ("http://[5f00::1]/", Rule::Reserved),
    ] {
        assert_eq!(refused(url), Some(rule), "{url}");
    }
    for url in [
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[::1]example.com/",
        "http://[127.0.0.1]/",
        "http://::1/",
        "http://1.2.3.4.5/",
        "http://256.0.0.1/",
        "http://127.0.0.0x100/",
        "http://4294967296/",
        "http://example.0x7f/",
        "http://127.0.0.1%00.example.com/",
        "http://127.0.0.1%09/",
        "http://%2531%2532%2537.0.0.1/",
        "http://exa mple.com/",
        "http://a@b@127.0.0.1/",
        "http://127.0.0.1:65536/",
        "http://127.0.0.1:+80/",
        "http://xn--localhost-/",
    ] {
        assert!(CallbackUrl::parse(url).is_err(), "{url}");
    }
}
