//! The operator's settings for callback targets: allow list, deny list, NAT64 prefix and ports.

use std::net::{IpAddr, Ipv6Addr};

use storm_shared::{
    models::CallbackUrl,
    services::ssrf::{
        AllowList, DenyList, Nat64, Nat64Error, NetsError, Policy, PolicySettings, Ports, Rule,
    },
};

use crate::{hostile, iana};

/// The policy of `CALLBACK_ALLOW`, `CALLBACK_DENY` and `CALLBACK_NAT64`.
fn policy(allow: &str, deny: &str, nat64: &str) -> Policy {
    Policy::from(PolicySettings {
        allow: AllowList::parse(allow).unwrap(),
        deny: DenyList::parse(deny).unwrap(),
        nat64: Nat64::parse(nat64).unwrap(),
        ports: Ports::default(),
    })
}

fn rule(policy: &Policy, address: &str) -> Option<Rule> {
    let verdict = policy.check_address(address.parse().unwrap());
    verdict.err().map(|refusal| refusal.rule)
}

fn rule_for_url(policy: &Policy, url: &str) -> Option<Rule> {
    let verdict = policy.check_url(&CallbackUrl::parse(url).unwrap());
    verdict.err().map(|refusal| refusal.rule)
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
        let verdict = Policy::parse(allow).unwrap().check_url(&url);
        let address = verdict
            .err()
            .map(|refusal| refusal.address().unwrap().to_string());
        assert_eq!(address.as_deref(), refused, "{allow}");
    }
}

#[test]
fn an_allowed_network_exempts_exactly_its_own_addresses() {
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
            policy.check_address(address.parse().unwrap()).is_ok(),
            allowed,
            "{address}"
        );
    }
}

#[test]
fn an_allow_list_that_is_too_wide_or_malformed_is_refused() {
    for everything in [
        "0.0.0.0/0",
        "::/0",
        "127.0.0.0/8,0.0.0.0/0",
        "0.0.0.0/1,128.0.0.0/1",
        "224.0.0.0/3",
        "::/1",
        "fc00::/6",
        "0.0.0.0",
        "::",
    ] {
        assert!(matches!(
            Policy::parse(everything),
            Err(NetsError::TooWide(_))
        ));
    }
    for host_bits in ["10.0.0.1/8", "::1/64", "1.2.3.4/0"] {
        assert!(Policy::parse(host_bits).is_err(), "{host_bits}");
    }
    for mapped in ["::ffff:10.0.0.0/104", "::ffff:10.0.0.1", "::ffff:0:0/96"] {
        assert!(
            matches!(Policy::parse(mapped), Err(NetsError::Mapped(_))),
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
        "10.0.0.0/08",
        "127.0.0.1:80",
        "127.0.0.0/8;10.0.0.0/8",
        "*",
        "[::1]",
    ] {
        assert!(
            matches!(Policy::parse(garbage), Err(NetsError::NotANet(_))),
            "{garbage}"
        );
    }
    assert_eq!(Policy::parse(" , "), Err(NetsError::OnlySeparators));
    for list in ["127.0.0.0/8 ::1", "127.0.0.0/8, ::1,", "127.0.0.0/8\n::1"] {
        assert_eq!(Policy::parse(list), Policy::parse("127.0.0.0/8,::1"));
    }
    assert_eq!(Policy::parse(" "), Ok(Policy::default()));
    assert_eq!(
        Policy::parse("10.0.0.1/8").unwrap_err().to_string(),
        "`10.0.0.1/8` has bits set beyond its prefix; expected the network `10.0.0.0/8` or the \
         address `10.0.0.1`"
    );
}

#[test]
fn a_violation_shows_the_class_to_clients_and_the_address_to_operators() {
    let refusal = Policy::default()
        .check_address("::ffff:10.0.0.1".parse().unwrap())
        .unwrap_err();
    assert_eq!(refusal.class(), "private");
    assert_eq!(refusal.to_string(), "10.0.0.1 is refused as private");
}

#[test]
fn a_denied_network_is_refused_even_if_it_is_public_or_allowed() {
    let policy = policy("10.0.0.0/8", "1.1.1.0/24, 10.1.0.0/16, 2606:4700::/32", "");
    for (address, refused) in [
        ("1.1.0.255", None),
        ("1.1.1.0", Some(Rule::Denied)),
        ("1.1.1.255", Some(Rule::Denied)),
        ("::ffff:1.1.1.1", Some(Rule::Denied)),
        ("1.1.2.0", None),
        ("10.0.0.1", None),
        ("10.1.0.1", Some(Rule::Denied)),
        ("2606:4700::1111", Some(Rule::Denied)),
        ("2606:4701::1", None),
        ("127.0.0.1", Some(Rule::Loopback)),
    ] {
        assert_eq!(rule(&policy, address), refused, "{address}");
    }
}

#[test]
fn denying_all_of_ipv4_or_ipv6_leaves_the_other_protocol_allowed() {
    let without_ipv6 = policy("127.0.0.0/8,::1", "::/0", "");
    assert_eq!(rule(&without_ipv6, "2606:4700::1111"), Some(Rule::Denied));
    assert_eq!(rule(&without_ipv6, "::1"), Some(Rule::Denied));
    assert_eq!(rule(&without_ipv6, "1.1.1.1"), None);
    assert_eq!(rule(&without_ipv6, "::ffff:1.1.1.1"), None);
    let without_ipv4 = policy("127.0.0.0/8", "0.0.0.0/0", "");
    assert_eq!(rule(&without_ipv4, "1.1.1.1"), Some(Rule::Denied));
    assert_eq!(rule(&without_ipv4, "::ffff:127.0.0.1"), Some(Rule::Denied));
    assert_eq!(rule(&without_ipv4, "2606:4700::1111"), None);
}

#[test]
fn a_malformed_deny_list_is_refused() {
    for text in [
        "10.0.0.1/8",
        "::1/0",
        "::ffff:10.0.0.0/104",
        "::ffff:1.1.1.1",
        "example.com",
        "10.0.0.0/8;",
        ",",
        "*",
    ] {
        assert!(DenyList::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_metadata_service_at_a_public_address_is_refused_unless_allowed() {
    for address in ["168.63.129.16", "::ffff:168.63.129.16", "192.80.8.124"] {
        assert_eq!(rule(&Policy::default(), address), Some(Rule::Metadata));
    }
    for neighbour in [
        "168.63.129.15",
        "168.63.129.17",
        "192.80.8.123",
        "192.80.8.125",
    ] {
        assert_eq!(rule(&Policy::default(), neighbour), None);
    }
    for (url, refused) in [
        ("http://169.254.169.254/", Rule::LinkLocal), // most clouds
        ("http://100.100.100.200/", Rule::Shared),    // Alibaba
        ("http://192.0.0.192/", Rule::Special),       // Oracle, formerly
        ("http://[fd00:ec2::254]/", Rule::Private),   // AWS
        ("http://[fd20:ce::254]/", Rule::Private),    // Google
    ] {
        assert_eq!(rule_for_url(&Policy::default(), url), Some(refused));
    }
    assert_eq!(
        rule(&policy("168.63.129.16", "", ""), "168.63.129.16"),
        None
    );
}

#[test]
fn a_nat64_address_is_judged_as_its_embedded_ipv4_address() {
    for prefix in ["64:ff9b::", "64:ff9b:1:2:3:4::", "2a00:0:1:1::", "fd00::"] {
        let policy = policy("", "", &format!("{prefix}/96"));
        let prefix: Ipv6Addr = prefix.parse().unwrap();
        for block in iana::special().iter().filter(|block| block.v4) {
            for address in block.edges() {
                let IpAddr::V4(carried) = address else {
                    panic!("an IPv4 block has IPv4 edges")
                };
                let translated =
                    Ipv6Addr::from(u128::from(prefix) | u128::from(u32::from(carried)));
                let verdict = policy.check_address(translated.into());
                let expected = Policy::default().check_address(address);
                assert_eq!(
                    verdict.map_err(|refusal| refusal.rule),
                    expected.map_err(|refusal| refusal.rule),
                    "{translated}"
                );
            }
        }
    }
}

#[test]
fn every_nat64_prefix_length_is_decoded_by_its_own_layout() {
    for (prefix, private, public, reserved) in [
        (
            "2a00::/32",
            "2a00:0:a00:1::",
            "2a00:0:101:101::",
            "2a00:0:101:101:100::",
        ),
        (
            "2a00:0:100::/40",
            "2a00:0:10a:0:1::",
            "2a00:0:101:101:1::",
            "2a00:0:101:101:101::",
        ),
        (
            "2a00:0:1::/48",
            "2a00:0:1:a00:0:100::",
            "2a00:0:1:101:1:100::",
            "2a00:0:1:101:8001:100::",
        ),
        (
            "2a00:0:1:100::/56",
            "2a00:0:1:10a:0:1::",
            "2a00:0:1:101:1:101::",
            "2a00:0:1:101:ff01:101::",
        ),
        (
            "2a00:0:1:1::/64",
            "2a00:0:1:1:a:0:100:0",
            "2a00:0:1:1:1:101:100:0",
            "2a00:0:1:1:101:101:100:0",
        ),
        (
            "2a00:0:1:1::/96",
            "2a00:0:1:1::10.0.0.1",
            "2a00:0:1:1::1.1.1.1",
            "",
        ),
    ] {
        let policy = policy("", "", prefix);
        assert_eq!(rule(&policy, private), Some(Rule::Private), "{prefix}");
        assert_eq!(rule(&policy, public), None, "{prefix}");
        if !reserved.is_empty() {
            assert_eq!(rule(&policy, reserved), Some(Rule::Reserved), "{prefix}");
        }
    }
}

#[test]
fn a_list_matches_a_nat64_address_in_either_form() {
    for allow in ["10.0.0.0/8", "64:ff9b::10.0.0.0/104"] {
        let policy = policy(allow, "", "64:ff9b::/96");
        assert_eq!(rule(&policy, "64:ff9b::10.0.0.1"), None, "{allow}");
        assert_eq!(rule(&policy, "64:ff9b::127.0.0.1"), Some(Rule::Loopback));
    }
    for deny in ["1.1.1.0/24", "64:ff9b::1.1.1.0/120", "::/0"] {
        let policy = policy("", deny, "64:ff9b::/96");
        assert_eq!(
            rule(&policy, "64:ff9b::1.1.1.1"),
            Some(Rule::Denied),
            "{deny}"
        );
    }
    // Allowing the IPv6 form does not allow the IPv4 address itself.
    let policy = policy("64:ff9b::10.0.0.0/104", "", "64:ff9b::/96");
    assert_eq!(rule(&policy, "10.0.0.1"), Some(Rule::Private));
}

#[test]
fn without_a_nat64_prefix_its_addresses_are_judged_as_plain_ipv6() {
    assert_eq!(
        rule(&Policy::default(), "64:ff9b::1.1.1.1"),
        Some(Rule::Reserved)
    );
    assert_eq!(
        rule(&Policy::default(), "64:ff9b:1::1.1.1.1"),
        Some(Rule::Reserved)
    );
    let policy = policy("", "", "64:ff9b::/96");
    assert_eq!(rule(&policy, "64:ff9b::1.1.1.1"), None);
    assert_eq!(rule(&policy, "64:ff9b::1:101:101"), Some(Rule::Reserved));
    assert_eq!(rule(&policy, "::1.1.1.1"), Some(Rule::Reserved));
}

#[test]
fn a_malformed_or_misplaced_nat64_prefix_is_refused() {
    for length in [0, 16, 31, 33, 63, 72, 95, 97, 128] {
        let text = format!("64:ff9b::/{length}");
        assert_eq!(Nat64::parse(&text), Err(Nat64Error::Length(length)));
    }
    for text in ["64:ff9b::1/96", "2a00:0:1:1::/48", "64:ff9b::1.1.1.1/96"] {
        let error = Nat64::parse(text).unwrap_err();
        assert!(matches!(error, Nat64Error::HostBits(_)), "{error}");
    }
    for text in [
        "::/96",
        "::/32",
        "::ffff:0:0/96",
        "64:ff9b::/32",
        "64:ff9b:2::/48",
        "100::/64",
        "2001::/32",
        "2001::/96",
        "2002::/32",
        "5f00::/32",
        "fe80::/64",
        "ff00::/32",
    ] {
        let error = Nat64::parse(text).unwrap_err();
        assert!(matches!(error, Nat64Error::Elsewhere(_)), "{text}: {error}");
    }
    let error = Nat64::parse("2a00:0:0:0:100::/96").unwrap_err();
    assert!(matches!(error, Nat64Error::ReservedBits(_)), "{error}");
    for text in [
        "64:ff9b::",
        "64:ff9b::/",
        "64:ff9b::/+96",
        "64:ff9b::/96,2a00::/32",
        "10.0.0.0/32",
        "[64:ff9b::]/96",
        "yes",
    ] {
        let error = Nat64::parse(text).unwrap_err();
        assert!(
            matches!(error, Nat64Error::NotAPrefix(_)),
            "{text}: {error}"
        );
    }
    assert_eq!(Nat64::parse("  "), Ok(None));
    assert_eq!(
        Nat64::parse(" 64:ff9b::/96 ").unwrap(),
        Nat64::parse("64:FF9B:0::0/96").unwrap()
    );
}

#[test]
fn every_port_is_allowed_except_those_that_browsers_block() {
    for port in 0..=u16::MAX {
        let verdict = Policy::default().check_port(port);
        assert_eq!(
            verdict.is_err(),
            hostile::is_bad_port(port),
            "{port}: {verdict:?}"
        );
    }
}

#[test]
fn explicit_and_implied_ports_are_both_checked() {
    let https_only = Policy::from(PolicySettings {
        ports: Ports::parse("443,8443").unwrap(),
        ..PolicySettings::default()
    });
    for (url, refused) in [
        ("https://example.com/", None),
        ("https://example.com:443/", None),
        ("http://example.com:443/", None),
        ("https://example.com:8443/", None),
        ("http://example.com/", Some(Rule::Port)),
        ("http://example.com:80/", Some(Rule::Port)),
        ("https://1.1.1.1:22/", Some(Rule::Port)),
    ] {
        assert_eq!(rule_for_url(&https_only, url), refused, "{url}");
    }
    assert_eq!(
        rule_for_url(&Policy::default(), "http://example.com:25/"),
        Some(Rule::Port)
    );
    let refusal = Policy::default().check_port(25).unwrap_err();
    assert_eq!((refusal.class(), refusal.address()), ("port", None));
    assert_eq!(refusal.to_string(), "port 25 is refused as port");
}

#[test]
fn a_violation_of_a_nat64_address_shows_operators_both_forms() {
    let address: IpAddr = "64:ff9b::10.0.0.1".parse().unwrap();
    let refusal = policy("", "", "64:ff9b::/96")
        .check_address(address)
        .unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "64:ff9b::a00:1 (NAT64 for 10.0.0.1) is refused as private"
    );
    assert_eq!(
        (refusal.class(), refusal.address()),
        ("private", Some(address))
    );
}
