mod waiting;

use std::{future::ready, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use storm_shared::{
    models::{BreakerState, CallbackUrl, Destination, WorkerReport},
    services::store::Paused,
};
use tokio::task::unconstrained;

use super::{
    Admitted, Origins, PAUSE_PARK_TIME, SWEEP_INTERVAL, Signal, lock,
    state::{IDLE_TIME, MAX_DESTINATIONS, MIN_SLOTS, NAMED_FOR},
};
use crate::{
    metrics::Metrics,
    workers::{
        pauses::KnownPauses,
        slots::{Slot, Slots},
    },
};

const BAD: &str = "http://bad.example";
const GOOD: &str = "http://good.example";
const PARK_MAX: Duration = Duration::from_mins(5);

fn origins(limit: usize, slots: u32) -> (Origins, Slots) {
    let slots = Slots::new(slots, 5);
    let pauses = KnownPauses::default();
    let origins = Origins::new(limit, PARK_MAX, slots.clone(), pauses, Metrics::new());
    (origins, slots)
}

async fn admit(origins: &Origins, origin: &str) -> Result<Admitted, Duration> {
    admit_parked(origins, origin, Duration::ZERO).await
}

async fn admit_parked(
    origins: &Origins,
    origin: &str,
    parked_for: Duration,
) -> Result<Admitted, Duration> {
    origins.admit(destination(None, origin), parked_for).await
}

async fn admit_of(origins: &Origins, tenant: &str, origin: &str) -> Result<Admitted, Duration> {
    let destination = destination(Some(tenant), origin);
    origins.admit(destination, Duration::ZERO).await
}

fn destination(tenant: Option<&str>, origin: &str) -> Destination {
    Destination {
        tenant: tenant.map(|name| name.parse().unwrap()),
        origin: CallbackUrl::parse(origin).unwrap().origin().clone(),
    }
}

/// The numbers of destinations and of origins that are remembered.
fn known(origins: &Origins) -> (usize, usize) {
    lock(&origins.shared.state).known()
}

/// The outcome if it is there at once. Not subject to tokio's budget of polls.
fn now<F: Future + Unpin>(future: F) -> Option<F::Output> {
    unconstrained(future).now_or_never()
}

/// A job, and the slot that it holds.
type Holding = (Slot, BoxFuture<'static, Result<Admitted, Duration>>);

/// Claims jobs until one is parked. Each of the others holds a slot; those without a permit wait
/// for one. Dropping a job gives it up.
fn fill(origins: &Origins, slots: &Slots, tenant: Option<&str>, origin: &str) -> Vec<Holding> {
    let mut holding: Vec<Holding> = Vec::new();
    loop {
        let Some(slot) = now(Box::pin(slots.take(1, 1))) else {
            return holding;
        };
        let (origins, destination) = (origins.clone(), destination(tenant, origin));
        let mut job = async move { origins.admit(destination, Duration::ZERO).await }.boxed();
        match now(&mut job) {
            Some(Err(_)) => return holding,
            Some(Ok(admitted)) => holding.push((slot, ready(Ok(admitted)).boxed())),
            None => holding.push((slot, job)),
        }
    }
}

/// `times` failed attempts in a row.
async fn fail(origins: &Origins, origin: &str, times: usize) {
    for _ in 0..times {
        let admitted = admit(origins, origin).await.unwrap();
        admitted.record(Signal::Failure);
    }
}

#[tokio::test]
async fn attempts_beyond_the_concurrency_limit_wait_for_a_connections_permit() {
    let (origins, _) = origins(2, 1000);
    let mut first = admit(&origins, BAD).await.unwrap();
    let _second = admit(&origins, BAD).await.unwrap();
    let mut third = Box::pin(admit(&origins, BAD));
    assert!((&mut third).now_or_never().is_none());
    assert!(admit(&origins, GOOD).await.is_ok(), "no other origin waits");
    let permit = first.take_permit();
    first.record(Signal::Success);
    assert!(
        (&mut third).now_or_never().is_none(),
        "the connection of the first is still busy"
    );
    drop(permit);
    assert!(third.await.is_ok());
}

#[tokio::test]
async fn one_origin_holds_at_most_half_of_the_slots_and_two_at_most_three_quarters() {
    const SLOTS: u32 = 3000;
    let (origins, slots) = origins(1, SLOTS);
    let first = fill(&origins, &slots, None, BAD);
    assert_eq!(first.len(), SLOTS as usize / 2);
    let second = fill(&origins, &slots, None, GOOD);
    assert_eq!(second.len(), SLOTS as usize / 4);
    assert!(slots.free() >= SLOTS as usize / 4 - 1);
}

#[tokio::test]
async fn an_origin_may_always_hold_a_few_slots() {
    let (origins, slots) = origins(100, 1000);
    let _all = slots.take(1, 1000).await;
    let mut admitted = Vec::new();
    while let Ok(job) = admit(&origins, GOOD).await {
        admitted.push(job);
    }
    assert_eq!(admitted.len(), MIN_SLOTS);
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_parks_jobs_until_a_probe_succeeds() {
    let (origins, _) = origins(10, 1000);
    fail(&origins, BAD, 100).await;
    let pause = admit(&origins, BAD).await.err().unwrap();
    assert!(pause <= Duration::from_secs(1), "this one is the probe");
    assert!(admit(&origins, BAD).await.err().unwrap() > pause);
    assert!(admit(&origins, GOOD).await.is_ok());

    tokio::time::sleep(pause).await;
    let probe = admit(&origins, BAD).await.unwrap();
    assert!(admit(&origins, BAD).await.is_err(), "one at a time");
    assert!(origins.next_recovered().now_or_never().is_none());
    probe.record(Signal::Success);
    assert_eq!(origins.next_recovered().await, destination(None, BAD));
    assert!(admit(&origins, BAD).await.is_ok());
}

#[tokio::test]
async fn no_job_is_parked_for_longer_than_its_budget() {
    let (origins, _) = origins(10, 1000);
    fail(&origins, BAD, 100).await;
    admit(&origins, BAD).await.err().unwrap(); // it comes back as the probe
    let second = Duration::from_secs(1);
    let most = PARK_MAX.checked_sub(second).unwrap();
    assert_eq!(admit_parked(&origins, BAD, most).await.err(), Some(second));
    assert!(admit_parked(&origins, BAD, PARK_MAX).await.is_ok());
}

#[tokio::test]
async fn a_job_that_waits_for_a_permit_is_parked_if_the_breaker_opens_meanwhile() {
    let (origins, _) = origins(1, 1000);
    fail(&origins, BAD, 99).await;
    let last = admit(&origins, BAD).await.unwrap();
    let mut waiting = Box::pin(admit(&origins, BAD));
    assert!((&mut waiting).now_or_never().is_none());
    last.record(Signal::Failure);
    assert!(waiting.await.is_err());
}

#[tokio::test]
async fn an_idle_origin_without_failures_is_forgotten_at_once() {
    let (origins, _) = origins(1, 1000);
    let admitted = admit(&origins, GOOD).await.unwrap();
    {
        let mut given_up = Box::pin(admit(&origins, GOOD));
        assert!((&mut given_up).now_or_never().is_none());
    }
    fail(&origins, BAD, 1).await;
    assert_eq!(known(&origins), (2, 2));
    admitted.record(Signal::Success);
    assert_eq!(known(&origins), (1, 1), "the one that failed is remembered");
    admit(&origins, BAD).await.unwrap().record(Signal::Success);
    assert!(lock(&origins.shared.state).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_receiver_without_trouble_is_named_for_a_while_after_its_last_attempt() {
    let (origins, _) = origins(10, 100);
    let named = || {
        let receivers = origins.receivers().into_iter();
        let named = receivers.map(|it| (it.origin, it.breaker, it.jobs));
        named.collect::<Vec<_>>()
    };
    let closed = |jobs| vec![(GOOD.to_owned(), BreakerState::Closed, jobs)];
    let admitted = admit(&origins, GOOD).await.unwrap();
    assert_eq!(named(), closed(1));
    admitted.record(Signal::Success);
    assert_eq!(known(&origins), (0, 0), "only its name is kept");
    assert_eq!(named(), closed(0));
    let again = admit(&origins, GOOD).await.unwrap();
    assert_eq!(named(), closed(1), "once");
    again.record(Signal::Success);
    tokio::time::advance(NAMED_FOR).await;
    assert_eq!(named(), []);
    // However many there are.
    for number in 0..1000 {
        let origin = format!("http://{number}.example");
        let admitted = admit(&origins, &origin).await.unwrap();
        admitted.record(Signal::Success);
    }
    assert_eq!(named().len(), WorkerReport::RECEIVERS);
}

#[tokio::test]
async fn in_a_small_worker_too_an_origin_holds_half_of_the_slots_but_at_least_one() {
    for (slots, most) in [(1, 1), (2, 1), (3, 1), (4, 2), (16, 8), (31, 15)] {
        let (origins, all) = origins(100, slots);
        let _all = all.take(1, slots as usize).await;
        let mut admitted = Vec::new();
        while let Ok(job) = admit(&origins, BAD).await {
            admitted.push(job);
        }
        assert_eq!(admitted.len(), most, "of {slots}");
    }
}

#[tokio::test]
async fn a_connection_that_outlives_its_job_keeps_its_permit() {
    let (origins, _) = origins(1, 1000);
    let mut admitted = admit(&origins, GOOD).await.unwrap();
    let permit = admitted.take_permit();
    admitted.record(Signal::Success);
    let mut next = Box::pin(admit(&origins, GOOD));
    assert!((&mut next).now_or_never().is_none());
    drop(permit);
    drop(next.await.unwrap());
    assert_eq!(known(&origins), (0, 0));
}

#[tokio::test]
async fn an_origin_whose_connection_outlived_its_last_job_is_swept_once_that_is_idle() {
    let (origins, _) = origins(1, 1000);
    let mut admitted = admit(&origins, GOOD).await.unwrap();
    let permit = admitted.take_permit();
    admitted.record(Signal::Success);
    origins.shared.sweep();
    assert_eq!(known(&origins), (0, 1), "its connection still counts");
    drop(permit);
    origins.shared.sweep();
    assert_eq!(known(&origins), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_of_an_idle_origin_is_forgotten_in_time() {
    let (origins, _) = origins(10, 1000);
    fail(&origins, BAD, 100).await;
    let open = || {
        let text = origins.shared.metrics.render();
        text.contains("storm_worker_open_breakers 1")
    };
    assert!(open());
    tokio::select! {
        () = origins.sweep_forever() => {}
        () = tokio::time::sleep(IDLE_TIME + 2 * SWEEP_INTERVAL) => {}
    }
    assert_eq!(known(&origins), (0, 0));
    assert!(!open());
}

#[tokio::test(start_paused = true)]
async fn the_number_of_idle_origins_is_bounded() {
    let (origins, _) = origins(10, 1000);
    for number in 0..=MAX_DESTINATIONS {
        fail(&origins, &format!("http://n{number}.example"), 1).await;
    }
    let called = admit(&origins, GOOD).await.unwrap();
    origins.shared.sweep();
    assert_eq!(known(&origins), (1, 1), "the one being called stays");
    drop(called);
}

#[tokio::test]
async fn a_breaker_is_of_one_tenant_and_does_not_open_for_another_whose_calls_succeed() {
    let (origins, _) = origins(10, 1000);
    for _ in 0..100 {
        let failing = admit_of(&origins, "a", BAD).await.unwrap();
        failing.record(Signal::Failure);
        let fine = admit_of(&origins, "b", BAD).await.unwrap();
        fine.record(Signal::Success);
    }
    assert!(admit_of(&origins, "a", BAD).await.is_err(), "it is open");
    assert!(admit_of(&origins, "a", GOOD).await.is_ok());
    assert!(admit_of(&origins, "b", BAD).await.is_ok());
    assert!(admit(&origins, BAD).await.is_ok());
    let text = origins.shared.metrics.render();
    assert!(text.contains("storm_worker_open_breakers 1"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn only_the_tenant_whose_breaker_has_closed_recovers() {
    let (origins, _) = origins(10, 1000);
    for tenant in ["a", "b"] {
        for _ in 0..100 {
            let failing = admit_of(&origins, tenant, BAD).await.unwrap();
            failing.record(Signal::Failure);
        }
    }
    let pause = admit_of(&origins, "a", BAD).await.err().unwrap();
    tokio::time::sleep(pause).await;
    let probe = admit_of(&origins, "a", BAD).await.unwrap();
    probe.record(Signal::Success);
    let recovered = origins.next_recovered().await;
    assert_eq!(recovered, destination(Some("a"), BAD));
    assert!(origins.next_recovered().now_or_never().is_none());
    let _probe = admit_of(&origins, "b", BAD).await.unwrap();
    assert!(admit_of(&origins, "b", BAD).await.is_err());
}

#[tokio::test]
async fn tenants_share_the_permits_of_an_origin() {
    let (origins, slots) = origins(4, 1000);
    let mut hostile = fill(&origins, &slots, Some("a"), BAD);
    assert!(hostile.len() > 100);
    let mut honest = Box::pin(admit_of(&origins, "b", BAD));
    assert!(now(&mut honest).is_none(), "all are taken");
    drop(hostile.remove(0));
    let honest = now(honest);
    assert!(
        honest.is_some_and(|admitted| admitted.is_ok()),
        "served before a's others"
    );
}

#[tokio::test]
async fn two_origins_leave_room_for_another_in_a_small_worker_too() {
    for slots in [4, 8, 20, 32] {
        let (origins, slots) = origins(100, slots);
        let _first = fill(&origins, &slots, None, BAD);
        let _second = fill(&origins, &slots, None, GOOD);
        let _slot = now(Box::pin(slots.take(1, 1))).expect("a free slot");
        assert!(admit(&origins, "http://other.example").await.is_ok());
    }
}

#[tokio::test]
async fn a_tenant_with_many_hanging_receivers_leaves_room_for_another() {
    const SLOTS: usize = 400;
    let (origins, slots) = origins(10, 400);
    let mut hostile = Vec::new();
    for number in 0..SLOTS {
        let origin = format!("http://n{number}.example");
        hostile.extend(fill(&origins, &slots, Some("a"), &origin));
    }
    assert_eq!(hostile.len(), SLOTS * 7 / 8);
    let honest = fill(&origins, &slots, Some("b"), GOOD);
    assert_eq!(
        honest.len(),
        SLOTS / 16,
        "half of what is left, as of any worker"
    );
    // As its attempts end, it comes down to the same share.
    drop(hostile.drain(..SLOTS / 4));
    let honest_too = fill(&origins, &slots, Some("b"), BAD);
    assert!(honest_too.len() > SLOTS / 16);
}

#[tokio::test]
async fn a_tenant_has_one_slot_of_the_smallest_worker() {
    let (origins, _) = origins(10, 1);
    let _first = admit_of(&origins, "a", BAD).await.unwrap();
    assert!(admit_of(&origins, "a", BAD).await.is_err());
    assert!(admit_of(&origins, "a", GOOD).await.is_err());
    assert!(admit_of(&origins, "b", GOOD).await.is_ok());
}

#[tokio::test]
async fn without_tokens_many_receivers_may_fill_the_worker() {
    const SLOTS: usize = 400;
    let (origins, slots) = origins(10, 400);
    let mut all = Vec::new();
    for number in 0..SLOTS {
        let origin = format!("http://n{number}.example");
        all.extend(fill(&origins, &slots, None, &origin));
    }
    assert_eq!(all.len(), SLOTS);
}

#[tokio::test]
async fn fifty_tenants_of_which_one_is_hostile_each_get_their_share_of_an_origin() {
    const SLOTS: u32 = 10_000;
    let (origins, slots) = origins(100, SLOTS);
    let hostile = fill(&origins, &slots, Some("hostile"), BAD);
    assert_eq!(hostile.len(), SLOTS as usize / 2);
    let mut honest = Vec::new();
    for number in 0..49 {
        for _ in 0..3 {
            let (origins, tenant) = (origins.clone(), format!("t{number}"));
            let job = async move { admit_of(&origins, &tenant, BAD).await };
            honest.push(job.boxed());
        }
    }
    for job in &mut honest {
        assert!(now(job).is_none(), "the permits are taken");
    }
    // The hostile tenant's attempts end: two of its share of 100 / 50 stay.
    let mut hostile = hostile.into_iter();
    drop(hostile.by_ref().take(98).collect::<Vec<_>>());
    let served = honest.into_iter().filter_map(now);
    let served: Vec<_> = served.map(Result::unwrap).collect();
    assert_eq!(served.len(), 98);
    for number in 0..49 {
        let tenant = destination(Some(&format!("t{number}")), BAD);
        let its = served.iter().filter(|job| job.destination == tenant);
        assert_eq!(its.count(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn no_job_is_parked_past_its_budget_because_its_origin_is_busy() {
    let (origins, slots) = origins(1, 8);
    let _waiting = fill(&origins, &slots, None, BAD);
    let budget = Duration::from_millis(50);
    let most = PARK_MAX.checked_sub(budget).unwrap();
    assert_eq!(admit_parked(&origins, BAD, most).await.err(), Some(budget));
}

#[tokio::test(start_paused = true)]
async fn an_overdue_job_gets_the_next_slot_of_its_busy_origin() {
    let (origins, slots) = origins(1, 8);
    let mut waiting = fill(&origins, &slots, None, BAD);
    let wait = admit_parked(&origins, BAD, PARK_MAX).await.err().unwrap();
    assert!(wait < Duration::from_secs(1));
    // A newer job may not take the slot that is free now.
    drop(waiting.pop());
    assert!(admit(&origins, BAD).now_or_never().unwrap().is_err());
    assert!(admit(&origins, GOOD).await.is_ok());
    tokio::time::sleep(wait).await;
    let mut overdue = Box::pin(admit_parked(&origins, BAD, PARK_MAX));
    assert!(
        (&mut overdue).now_or_never().is_none(),
        "it waits for a permit"
    );
    drop(waiting);
    assert!(overdue.await.is_ok());
    // Nobody is overdue any more.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(admit(&origins, BAD).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_tenant_with_too_many_failing_origins_displaces_no_other_tenants() {
    let (origins, _) = origins(10, 1000);
    let breakers = ["b", "c"];
    for tenant in breakers {
        for _ in 0..100 {
            let failing = admit_of(&origins, tenant, BAD).await.unwrap();
            failing.record(Signal::Failure);
        }
    }
    for number in 0..MAX_DESTINATIONS {
        let failing = admit_of(&origins, "a", &format!("http://n{number}.example")).await;
        failing.unwrap().record(Signal::Failure);
    }
    origins.shared.sweep();
    assert_eq!(known(&origins), (2, 1));
    for tenant in breakers {
        assert!(admit_of(&origins, tenant, BAD).await.is_err(), "still open");
    }
}

#[tokio::test]
async fn ten_thousand_tenants_of_one_origin_are_bounded_and_leave_nothing_behind() {
    let (origins, _) = origins(10, 1000);
    for number in 0..=MAX_DESTINATIONS {
        let tenant = format!("t{number}");
        let failing = admit_of(&origins, &tenant, BAD).await.unwrap();
        failing.record(Signal::Failure);
    }
    assert_eq!(known(&origins), (MAX_DESTINATIONS + 1, 1));
    origins.shared.sweep();
    assert!(lock(&origins.shared.state).is_empty());
}

#[tokio::test(start_paused = true)]
async fn jobs_that_a_tenant_has_no_room_for_are_spread_over_all_of_its_receivers() {
    let (origins, slots) = origins(10, 16);
    let mut hostile = Vec::new();
    for number in 0..16 {
        let origin = format!("http://n{number}.example");
        hostile.extend(fill(&origins, &slots, Some("a"), &origin));
    }
    let mut waits = Vec::new();
    for number in 0..20 {
        let origin = format!("http://late{number}.example");
        waits.push(admit_of(&origins, "a", &origin).await.err().unwrap());
    }
    assert!(waits.is_sorted_by(|one, next| one < next), "{waits:?}");
}

#[tokio::test]
async fn a_paused_origin_holds_the_jobs_of_all_tenants_and_no_other_origins() {
    let (origins, _) = origins(2, 1000);
    let pauses = origins.shared.pauses.clone();
    let bad = Paused::Origin(destination(None, BAD).origin);
    let waits = |tenant, origin| origins.paused(&destination(tenant, origin));
    pauses.update([bad].into_iter().collect());
    for tenant in [None, Some("one")] {
        assert_eq!(waits(tenant, BAD), Some(PAUSE_PARK_TIME));
        assert_eq!(waits(tenant, GOOD), None);
    }
    pauses.update([].into_iter().collect());
    assert_eq!(waits(None, BAD), None);
}
