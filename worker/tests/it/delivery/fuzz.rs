//! Fuzzes the SSRF policy with arbitrary URLs and look-up results: there is no panic, and exactly
//! the addresses that IANA's registries and the operator's settings allow are dialled. A recording
//! network stands in, so no packet is sent. `make fuzz CASES=1000000` runs more cases.

use std::{
    collections::VecDeque,
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::{FutureExt, future::BoxFuture};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{FileFailurePersistence, TestCaseResult, TestRunner},
};
use storm_shared::{
    models::CallbackUrl,
    services::ssrf::{AllowList, DenyList, Nat64, Policy, PolicySettings},
};
use storm_worker::{
    check_url::{Checker, UrlVerdict},
    delivery::{CallbackClient, Connect, Network, Resolve, SsrfFilter},
};
use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
};
use url::Host;

use super::{PATIENT, message};
use crate::{hostile, iana};

/// The most addresses of one name to dial.
const MOST: usize = 4;

#[test]
fn exactly_the_addresses_that_the_registries_allow_are_dialled() {
    let labs = [
        Lab::new(PolicySettings::default(), is_public),
        Lab::new(
            PolicySettings {
                nat64: Nat64::parse("64:ff9b::/96").unwrap(),
                ..PolicySettings::default()
            },
            |address| is_public(carried_by_nat64(address).unwrap_or(address)),
        ),
        Lab::new(
            PolicySettings {
                allow: AllowList::parse("10.0.0.0/8,::1").unwrap(),
                deny: DenyList::parse("0.0.0.0/2,2000::/4").unwrap(),
                ..PolicySettings::default()
            },
            |address| match address {
                IpAddr::V4(v4) => v4.octets()[0] >= 64 && is_public(address),
                IpAddr::V6(v6) => {
                    v6 == Ipv6Addr::LOCALHOST || v6.octets()[0] >> 4 != 2 && is_public(address)
                }
            },
        ),
    ];
    let case = (
        0..labs.len(),
        hostile::text(),
        vec(vec(hostile::address(), 0..7), 0..3),
    );
    TestRunner::new(config())
        .run(&case, |(lab, text, answers)| {
            labs[lab].try_out(&text, &answers)
        })
        .unwrap();
    for lab in labs {
        assert!(lab.dials.into_inner() > 0, "no case dialled an address");
    }
}

/// `PROPTEST_CASES` sets the number of cases. Failed cases are stored and run first.
fn config() -> ProptestConfig {
    let regressions = FileFailurePersistence::Direct("proptest-regressions/delivery.txt");
    let default = ProptestConfig::default();
    let is_set = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig {
        cases: if is_set { default.cases } else { 3000 },
        failure_persistence: Some(Box::new(regressions)),
        ..default
    }
}

/// The addresses in the order of RFC 8305, section 4: families take turns, and the family of the
/// first address begins.
fn alternating(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let rank = |(place, address): (usize, &IpAddr)| {
        let same_family = |other: &&IpAddr| other.is_ipv4() == address.is_ipv4();
        let turn = addresses[..place].iter().filter(same_family).count();
        let is_second = address.is_ipv4() != addresses[0].is_ipv4();
        (turn, is_second, *address)
    };
    let mut ranked: Vec<_> = addresses.iter().enumerate().map(rank).collect();
    ranked.sort_by_key(|(turn, is_second, _)| (*turn, *is_second));
    ranked.into_iter().map(|(_, _, address)| address)
}

/// A real client on a recording network.
struct Lab {
    runtime: Runtime,
    client: CallbackClient,
    checker: Checker,
    network: Arc<RecordingNetwork>,
    /// Attempts that dialled.
    dials: AtomicUsize,
    /// The addresses to dial according to an independent implementation.
    allowed: fn(IpAddr) -> bool,
}

impl Lab {
    fn new(settings: PolicySettings, allowed: fn(IpAddr) -> bool) -> Self {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let _inside = runtime.enter();
        let policy = Policy::from(settings);
        let network = Arc::new(RecordingNetwork::default());
        let filter = SsrfFilter {
            policy: policy.clone(),
            resolver: network.clone(),
        };
        let network_parts = Network {
            sockets: network.clone(),
            ..Network::with_resolver(network.clone())
        };
        Self {
            client: CallbackClient::new(policy, network_parts, PATIENT, None).unwrap(),
            checker: Checker::new(filter, PATIENT),
            network,
            dials: AtomicUsize::new(0),
            allowed,
            runtime,
        }
    }

    /// Sequential attempts with a different look-up result each time (DNS rebinding).
    fn try_out(&self, text: &str, answers: &[Vec<IpAddr>]) -> TestCaseResult {
        for answer in answers {
            let dialled = match CallbackUrl::parse(text) {
                Ok(url) => self.dialled(&url, answer)?,
                Err(_) => Vec::new(),
            };
            self.network.answer_next(answer);
            let verdict = self.runtime.block_on(self.checker.verdict(text));
            self.network.take();
            prop_assert_eq!(
                verdict == UrlVerdict::Allow,
                !dialled.is_empty(),
                "{:?}",
                verdict
            );
        }
        Ok(())
    }

    /// The addresses that an attempt dials. Fails unless they are exactly the expected ones.
    fn dialled(
        &self,
        url: &CallbackUrl,
        answer: &[IpAddr],
    ) -> Result<Vec<SocketAddr>, TestCaseError> {
        self.network.answer_next(answer);
        // Parsed in the form that the table stores.
        let stored = CallbackUrl::from_target(url.target());
        let stored = stored.map_err(|error| TestCaseError::fail(error.to_string()))?;
        let message = message();
        let attempt = self.client.attempt(&stored, &message);
        self.runtime.block_on(attempt).unwrap_err(); // nothing listens
        let (dialled, looked_up) = self.network.take();

        let known = match url.url().host() {
            Some(Host::Ipv4(address)) => Some(vec![address.into()]),
            Some(Host::Ipv6(address)) => Some(vec![address.into()]),
            Some(Host::Domain(name)) => is_localhost(name)
                .then(|| vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
            None => None,
        };
        prop_assert!(
            looked_up <= usize::from(known.is_none()),
            "{} look-ups",
            looked_up
        );
        let addresses = known.unwrap_or_else(|| answer.to_vec());
        let addresses: Vec<_> = addresses.iter().map(IpAddr::to_canonical).collect();
        let port = url.url().port_or_known_default().unwrap();
        let all_allowed =
            !hostile::is_bad_port(port) && addresses.iter().all(|address| (self.allowed)(*address));
        let expected: Vec<_> = alternating(&addresses)
            .filter(|_| all_allowed)
            .take(MOST)
            .map(|address| SocketAddr::new(address, port))
            .collect();
        prop_assert_eq!(&dialled, &expected, "{:?}", url);
        let was_dialled = usize::from(!dialled.is_empty());
        self.dials.fetch_add(was_dialled, Ordering::Relaxed);
        Ok(dialled)
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether IANA's registries list the address as public. They are applied to its canonical form.
fn is_public(address: IpAddr) -> bool {
    let metadata = ["168.63.129.16", "192.80.8.124"];
    !iana::is_special(address) && !metadata.contains(&address.to_string().as_str())
}

/// The IPv4 address in `64:ff9b::/96`.
fn carried_by_nat64(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] = address.octets() else {
        return None;
    };
    Some(Ipv4Addr::new(a, b, c, d).into())
}

/// A network that records look-ups and dials.
#[derive(Default)]
struct RecordingNetwork {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    looked_up: Mutex<usize>,
    dialled: Mutex<Vec<SocketAddr>>,
}

impl RecordingNetwork {
    /// The next look-up returns `answer`; any further one would return loopback.
    fn answer_next(&self, answer: &[IpAddr]) {
        let loopback = vec![Ipv4Addr::LOCALHOST.into()];
        *self.answers.lock().unwrap() = VecDeque::from([answer.to_vec(), loopback]);
    }

    /// The addresses dialled since, and the number of look-ups.
    fn take(&self) -> (Vec<SocketAddr>, usize) {
        let dialled = mem::take(&mut *self.dialled.lock().unwrap());
        (dialled, mem::take(&mut *self.looked_up.lock().unwrap()))
    }
}

impl Resolve for RecordingNetwork {
    fn resolve(&self, _: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        *self.looked_up.lock().unwrap() += 1;
        let answer = self.answers.lock().unwrap().pop_front();
        let answer = answer.ok_or_else(|| io::Error::other("no such name"));
        std::future::ready(answer).boxed()
    }
}

impl Connect for RecordingNetwork {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        self.dialled.lock().unwrap().push(address);
        std::future::ready(Err(io::ErrorKind::ConnectionRefused.into())).boxed()
    }
}
