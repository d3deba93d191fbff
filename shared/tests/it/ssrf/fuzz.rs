//! Whatever is sent: no panic, one normal form, and a verdict that IANA's registries share.
//! `make fuzz CASES=1000000` tries more of it.

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
    fn the_normal_form_of_a_url_is_its_own_normal_form_and_judged_alike(text in hostile::text()) {
        normal_form_is_kept(&text)?;
    }

    #[test]
    fn a_url_with_a_literal_is_judged_as_the_registries_judge_the_address(text in hostile::url()) {
        if let Ok(url) = CallbackUrl::parse(&text) {
            literal_is_judged_rightly(&url)?;
        }
    }

    #[test]
    fn an_address_is_refused_where_the_registries_say_so_and_nowhere_else(
        address in hostile::address(),
    ) {
        let verdict = Policy::default().check_address(address);
        prop_assert_eq!(verdict.is_err(), is_refused(address), "{}: {:?}", address, verdict);
    }
}

/// `PROPTEST_CASES` says how many. A case that failed is kept, and tried first from then on.
fn config() -> ProptestConfig {
    let regressions = FileFailurePersistence::Direct("proptest-regressions/ssrf.txt");
    let default = ProptestConfig::default();
    let told = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig {
        cases: if told { default.cases } else { 2000 },
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

/// The registries', of the address that a mapped one carries; and of metadata services.
fn is_refused(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let metadata = ["168.63.129.16", "192.80.8.124"];
    iana::is_special(address) || metadata.contains(&address.to_string().as_str())
}
