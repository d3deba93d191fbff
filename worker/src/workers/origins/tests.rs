use std::time::Duration;

use futures_util::FutureExt;
use storm_shared::models::CallbackUrl;

use super::{Admitted, IDLE_TIME, MAX_ORIGINS, MIN_SLOTS, Origins, SWEEP_INTERVAL, Signal};
use crate::{metrics::Metrics, workers::slots::Slots};

const BAD: &str = "http://bad.example";
const GOOD: &str = "http://good.example";
const PARK_MAX: Duration = Duration::from_mins(5);

fn origins(limit: usize, slots: u32) -> (Origins, Slots) {
    let slots = Slots::new(slots, 5);
    let origins = Origins::new(limit, PARK_MAX, slots.clone(), Metrics::new());
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
    let url = CallbackUrl::parse(origin).unwrap();
    origins.admit(url.origin(), parked_for).await
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
    // Each job holds a slot. All but the first of an origin wait in theirs for a permit.
    let fill = async |origin| {
        let mut waiting = Vec::new();
        loop {
            let slot = slots.take(1, 1).await;
            let mut job = Box::pin(admit(&origins, origin));
            match (&mut job).now_or_never() {
                Some(Err(_)) => return waiting,
                Some(Ok(admitted)) => waiting.push((slot, Some(admitted), None)),
                None => waiting.push((slot, None, Some(job))),
            }
        }
    };
    let first = fill(BAD).await;
    assert_eq!(first.len(), SLOTS as usize / 2);
    let second = fill(GOOD).await;
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
    assert_eq!(origins.next_recovered().await.as_str(), BAD);
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
    let known = || origins.shared.lock().origins.len();
    let admitted = admit(&origins, GOOD).await.unwrap();
    {
        let mut given_up = Box::pin(admit(&origins, GOOD));
        assert!((&mut given_up).now_or_never().is_none());
    }
    fail(&origins, BAD, 1).await;
    assert_eq!(known(), 2);
    admitted.record(Signal::Success);
    assert_eq!(known(), 1, "the one that failed is remembered");
    admit(&origins, BAD).await.unwrap().record(Signal::Success);
    assert_eq!(known(), 0);
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
    assert_eq!(origins.shared.lock().origins.len(), 0);
}

#[tokio::test]
async fn an_origin_whose_connection_outlived_its_last_job_is_swept_once_that_is_idle() {
    let (origins, _) = origins(1, 1000);
    let mut admitted = admit(&origins, GOOD).await.unwrap();
    let permit = admitted.take_permit();
    admitted.record(Signal::Success);
    origins.shared.sweep();
    let known = || origins.shared.lock().origins.len();
    assert_eq!(known(), 1, "its connection still counts");
    drop(permit);
    origins.shared.sweep();
    assert_eq!(known(), 0);
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
    let known = || origins.shared.lock().origins.len();
    tokio::select! {
        () = origins.sweep_forever() => {}
        () = tokio::time::sleep(IDLE_TIME + 2 * SWEEP_INTERVAL) => {}
    }
    assert_eq!(known(), 0);
    assert!(!open());
}

#[tokio::test(start_paused = true)]
async fn the_number_of_idle_origins_is_bounded() {
    let (origins, _) = origins(10, 1000);
    for number in 0..=MAX_ORIGINS {
        fail(&origins, &format!("http://n{number}.example"), 1).await;
    }
    let called = admit(&origins, GOOD).await.unwrap();
    origins.shared.sweep();
    let known = origins.shared.lock().origins.len();
    assert_eq!(known, 1, "the one being called stays");
    drop(called);
}
