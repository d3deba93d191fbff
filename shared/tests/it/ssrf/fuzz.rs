//! Property tests for any input: no panic, one normal form, and a verdict that matches IANA's
//! registries. `make fuzz CASES=1000000` runs more cases.

use std::net::IpAddr;

use proptest::{
    prelude::*,
    test_runner::{FileFailurePersistence, TestCaseResult},
};
use storm_shared::{
    models::CallbackUrl,
    services::ssrf::{Policy, Rule},
};
use url::Host;

use crate::{hostile, iana};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn normalising_a_url_is_idempotent_and_keeps_its_verdict(text in hostile::text()) {
        normal_form_is_kept(&text)?;
    }

    #[test]
    fn a_literal_address_in_a_url_is_judged_as_the_registries_list_it(text in hostile::url()) {
        if let Ok(url) = CallbackUrl::parse(&text) {
            literal_is_judged_rightly(&url)?;
        }
    }

    #[test]
    fn an_address_is_refused_exactly_if_the_registries_list_it(
        address in hostile::address(),
    ) {
        let verdict = Policy::default().check_address(address);
        prop_assert_eq!(verdict.is_err(), is_refused(address), "{}: {:?}", address, verdict);
    }
}

/// 2000 cases, unless `PROPTEST_CASES` is set. A failed case is kept and tried first in later runs.
fn config() -> ProptestConfig {
    let regressions = FileFailurePersistence::Direct("proptest-regressions/ssrf.txt");
    let default = ProptestConfig::default();
    let is_set = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig {
        cases: if is_set { default.cases } else { 2000 },
        failure_persistence: Some(Box::new(regressions)),
        ..default
    }
}

fn normal_form_is_kept(text: &str) -> TestCaseResult {
    let Ok(url) = CallbackUrl::parse(text) else {
        return Ok(());
    };
    prop_assert_eq!(url.as_str(), text);
    let target = url.target();
    prop_assert!(target.is_ascii() && !target.contains(char::is_control));
    let again = CallbackUrl::from_target(target);
    let Ok(again) = again else {
        return Err(TestCaseError::fail(format!("{target}: {again:?}")));
    };
    prop_assert_eq!(again.target(), target);
    prop_assert_eq!((again.origin(), again.port()), (url.origin(), url.port()));
    prop_assert_eq!(
        Policy::default().check_url(&again),
        Policy::default().check_url(&url)
    );
    Ok(())
}

fn literal_is_judged_rightly(url: &CallbackUrl) -> TestCaseResult {
    let address: IpAddr = match url.url().host() {
        Some(Host::Ipv4(address)) => address.into(),
        Some(Host::Ipv6(address)) => address.into(),
        _ => return Ok(()),
    };
    match Policy::default().check_url(url) {
        Err(refusal) if refusal.rule == Rule::Port => {}
        verdict => prop_assert_eq!(verdict.is_err(), is_refused(address), "{}", address),
    }
    Ok(())
}

/// Whether the registries list the address, or the IPv4 address mapped in it, or it is a metadata
/// service.
fn is_refused(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let metadata = ["168.63.129.16", "192.80.8.124"];
    iana::is_special(address) || metadata.contains(&address.to_string().as_str())
}
