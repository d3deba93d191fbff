//! Single-flight look-ups, their limits and their timeouts, with look-ups that block on demand.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{join_all, select_ok},
};
use tokio::sync::Semaphore;

use super::{Resolve, SystemResolver};

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1));

/// A resolver whose look-ups block until `release`; look-ups of names with `quick` return at once.
struct Gate {
    resolver: SystemResolver,
    open: mpsc::Sender<()>,
    /// A permit for each look-up that has begun to block.
    arrived: Arc<Semaphore>,
}

impl Gate {
    /// A gate whose look-ups wait for a thread without a limit.
    fn new() -> Self {
        Self::with_patience(Duration::MAX)
    }

    fn with_patience(patience: Duration) -> Self {
        let (open, opened) = mpsc::channel();
        let opened = Mutex::new(opened);
        let arrived = Arc::new(Semaphore::new(0));
        let arrivals = Arc::clone(&arrived);
        let look_up = move |name: &str| {
            if !name.starts_with("quick") {
                arrivals.add_permits(1);
                let _ = opened.lock().unwrap().recv(); // fails once the test is over
            }
            assert!(!name.contains("panic"), "the test asks for this panic");
            if name.contains("unknown") {
                return Err(io::Error::new(io::ErrorKind::NotFound, "no such name"));
            }
            Ok(vec![ADDRESS])
        };
        Self {
            resolver: SystemResolver::with_patience(look_up, patience),
            open,
            arrived,
        }
    }

    async fn arrived(&self, look_ups: usize) {
        let look_ups = u32::try_from(look_ups).unwrap();
        self.arrived.acquire_many(look_ups).await.unwrap().forget();
    }

    fn release(&self, look_ups: usize) {
        for _ in 0..look_ups {
            self.open.send(()).unwrap();
        }
    }

    fn under_way(&self) -> usize {
        self.resolver.group.by_name().len()
    }

    fn free_threads(&self) -> usize {
        self.resolver.group.threads.available_permits()
    }
}

#[tokio::test]
async fn look_ups_are_single_flight_per_name() {
    let gate = Gate::new();
    let dials: Vec<_> = (0..1000)
        .map(|_| tokio::spawn(gate.resolver.resolve("hangs.example")))
        .collect();
    gate.arrived(1).await;
    for number in 0..100 {
        let name = format!("quick{number}.example");
        assert_eq!(gate.resolver.resolve(&name).await.unwrap(), [ADDRESS]);
    }
    // A waiter that had not joined would have begun a second look-up and would hang now.
    gate.release(1);
    for answer in join_all(dials).await {
        assert_eq!(answer.unwrap().unwrap(), [ADDRESS]);
    }
    assert_eq!(gate.under_way(), 0);
    assert_eq!(gate.arrived.available_permits(), 0);
}

#[tokio::test]
async fn one_domain_cannot_exhaust_the_look_up_threads() {
    let gate = Gate::new();
    let share = SystemResolver::MAX_OF_A_DOMAIN;
    let hostile: Vec<_> = (0..4 * share)
        .map(|number| format!("hangs{number}.a.hostile.example."))
        .map(|name| tokio::spawn(gate.resolver.resolve(&name)))
        .collect();
    gate.arrived(share).await;
    // The domain's name is hashed: one of these may fall into the hostile domain's share.
    let others = (0..20).map(|number| format!("quick.other{number}.example"));
    let others = others.map(|name| gate.resolver.resolve(&name));
    assert_eq!(select_ok(others).await.unwrap().0, [ADDRESS]);
    assert_eq!(gate.arrived.available_permits(), 0);

    gate.release(hostile.len());
    for answer in join_all(hostile).await {
        assert_eq!(answer.unwrap().unwrap(), [ADDRESS]);
    }
}

#[tokio::test]
async fn a_cancelled_waiter_does_not_cancel_the_shared_look_up() {
    let gate = Gate::new();
    let mut first = gate.resolver.resolve("slow.example");
    let mut second = gate.resolver.resolve("slow.example");
    assert!((&mut first).now_or_never().is_none());
    assert!((&mut second).now_or_never().is_none());
    gate.arrived(1).await;
    drop(first);
    gate.release(1);
    assert_eq!(second.await.unwrap(), [ADDRESS]);
    assert_eq!(gate.arrived.available_permits(), 0);
}

#[tokio::test]
async fn an_abandoned_look_up_keeps_its_thread_and_can_be_joined() {
    let gate = Gate::new();
    let mut abandoned = gate.resolver.resolve("slow.example");
    assert!((&mut abandoned).now_or_never().is_none());
    gate.arrived(1).await;
    drop(abandoned);
    assert_eq!(gate.free_threads(), SystemResolver::MAX_LOOKUPS - 1);
    let mut late = gate.resolver.resolve("slow.example");
    assert!((&mut late).now_or_never().is_none());
    gate.release(1);
    assert_eq!(late.await.unwrap(), [ADDRESS]);
}

#[tokio::test]
async fn look_ups_over_the_limit_wait_and_cancelled_ones_are_removed() {
    let gate = Gate::new();
    let full = SystemResolver::MAX_LOOKUPS;
    let mut dials = Vec::new();
    for number in 0..full {
        let mut dial = gate.resolver.resolve(&format!("slow{number}.example"));
        assert!((&mut dial).now_or_never().is_none());
        dials.push(dial);
    }
    gate.arrived(full).await;
    assert_eq!(gate.free_threads(), 0);

    let mut waiting = gate.resolver.resolve("quick.example");
    assert!((&mut waiting).now_or_never().is_none());
    for number in 0..1000 {
        let name = format!("quick{number}.example");
        assert!(gate.resolver.resolve(&name).now_or_never().is_none());
    }
    while gate.under_way() > full + 1 {
        tokio::task::yield_now().await; // until the cancelled ones are removed
    }

    gate.release(full);
    assert_eq!(waiting.await.unwrap(), [ADDRESS]);
    for dial in dials {
        assert_eq!(dial.await.unwrap(), [ADDRESS]);
    }
    assert_eq!(gate.under_way(), 0);
}

#[tokio::test]
async fn every_waiter_gets_the_error_and_the_next_look_up_is_new() {
    let gate = Gate::new();
    for _ in 0..2 {
        let dials: Vec<_> = (0..10)
            .map(|_| tokio::spawn(gate.resolver.resolve("unknown.example")))
            .collect();
        gate.arrived(1).await;
        gate.release(1);
        for answer in join_all(dials).await {
            let error = answer.unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            assert_eq!(error.to_string(), "no such name");
        }
    }
}

#[tokio::test]
async fn a_panicking_look_up_fails_and_frees_its_thread() {
    let gate = Gate::new();
    for _ in 0..2 * SystemResolver::MAX_LOOKUPS {
        let error = gate.resolver.resolve("quick.panic").await.unwrap_err();
        assert_eq!(error.to_string(), "the look-up failed without a result");
    }
    assert_eq!(gate.under_way(), 0);
}

#[test]
fn a_hanging_look_up_does_not_delay_process_exit() {
    let gate = Gate::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.unwrap();
    runtime.block_on(async {
        let dial = tokio::spawn(gate.resolver.resolve("hangs.example"));
        gate.arrived(1).await;
        dial.abort();
    });
    drop(runtime); // blocks forever if it waits for the look-up
    assert_eq!(gate.free_threads(), SystemResolver::MAX_LOOKUPS - 1);
}

#[tokio::test]
async fn the_system_resolver_accepts_an_address_literal() {
    let addresses = SystemResolver::new().resolve("127.0.0.1").await.unwrap();
    assert_eq!(addresses, [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
}

#[tokio::test]
async fn without_a_free_thread_in_time_a_look_up_fails_as_busy() {
    let gate = Gate::with_patience(Duration::from_millis(1));
    let of_a_domain = SystemResolver::MAX_OF_A_DOMAIN;
    let hanging: Vec<_> = (0..of_a_domain)
        .map(|number| tokio::spawn(gate.resolver.resolve(&format!("n{number}.one.example"))))
        .collect();
    gate.arrived(of_a_domain).await;
    let busy = gate.resolver.resolve("another.one.example").await;
    assert_eq!(busy.unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    assert_eq!(
        gate.under_way(),
        of_a_domain,
        "the failed look-up is removed"
    );
    let other = gate.resolver.resolve("quick.example").await;
    assert_eq!(other.unwrap(), [ADDRESS]);
    gate.release(of_a_domain);
    for look_up in hanging {
        assert_eq!(look_up.await.unwrap().unwrap(), [ADDRESS]);
    }
}
