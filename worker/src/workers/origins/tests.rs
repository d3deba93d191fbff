use std::time::Duration;

use futures_util::FutureExt;

use super::{Admission, FEW, FORGOTTEN, Origins, Pass, REMEMBERED, SWEEP, Sign};
use crate::{delivery::Turn, metrics::Metrics, workers::slots::Slots};

const BAD: &str = "http://bad.example";
const GOOD: &str = "http://good.example";
const PARK_MAX: Duration = Duration::from_mins(5);

fn origins(limit: usize, places: u32) -> (Origins, Slots) {
    let slots = Slots::new(places, 5);
    let origins = Origins::new(limit, PARK_MAX, slots.clone(), Metrics::new());
    (origins, slots)
}

/// The right to an attempt, and to its connection.
type Admitted = (Pass, Turn);

async fn admit(origins: &Origins, origin: &str) -> Result<Admitted, Duration> {
    admit_after(origins, origin, Duration::ZERO).await
}

async fn admit_after(
    origins: &Origins,
    origin: &str,
    parked: Duration,
) -> Result<Admitted, Duration> {
    match origins.admit(origin, parked).await {
        Admission::Go(pass, turn) => Ok((pass, turn)),
        Admission::PutOff(wait) => Err(wait),
    }
}

/// So many failures of it, one after the other.
async fn fail(origins: &Origins, origin: &str, times: usize) {
    for _ in 0..times {
        admit(origins, origin).await.unwrap().0.heard(Sign::Failing);
    }
}

#[tokio::test]
async fn so_many_attempts_are_made_at_a_time_and_the_next_waits_for_its_turn() {
    let (origins, _) = origins(2, 1000);
    let first = admit(&origins, BAD).await.unwrap();
    let _second = admit(&origins, BAD).await.unwrap();
    let mut third = Box::pin(admit(&origins, BAD));
    assert!((&mut third).now_or_never().is_none());
    assert!(admit(&origins, GOOD).await.is_ok(), "nobody else waits");
    let (first, turn) = first;
    first.heard(Sign::Alive);
    assert!(
        (&mut third).now_or_never().is_none(),
        "its connection is still busy"
    );
    drop(turn);
    assert!(third.await.is_ok());
}

#[tokio::test]
async fn an_origin_holds_no_more_places_than_are_free_and_two_leave_a_third() {
    const PLACES: u32 = 3000;
    let (origins, slots) = origins(1, PLACES);
    // Each job has its place, and all but the first of an origin wait in it for their turn.
    let crowd = async |origin| {
        let mut waiting = Vec::new();
        loop {
            let slot = slots.take(1, 1).await.unwrap();
            let mut job = Box::pin(admit(&origins, origin));
            match (&mut job).now_or_never() {
                Some(Err(_)) => return waiting,
                Some(Ok(pass)) => waiting.push((slot, Some(pass), None)),
                None => waiting.push((slot, None, Some(job))),
            }
        }
    };
    let first = crowd(BAD).await;
    assert_eq!(first.len(), PLACES as usize / 2);
    let second = crowd(GOOD).await;
    assert_eq!(second.len(), PLACES as usize / 4);
    assert!(slots.free() >= PLACES as usize / 4 - 1);
}

#[tokio::test]
async fn a_few_places_an_origin_may_always_hold() {
    let (origins, slots) = origins(100, 1000);
    let _all = slots.take(1, 1000).await.unwrap();
    let mut passes = Vec::new();
    while let Ok(pass) = admit(&origins, GOOD).await {
        passes.push(pass);
    }
    assert_eq!(passes.len(), FEW);
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_fails_again_and_again_is_left_alone_until_a_probe_succeeds() {
    let (origins, _) = origins(10, 1000);
    fail(&origins, BAD, 100).await;
    let pause = admit(&origins, BAD).await.err().unwrap();
    assert!(
        pause <= Duration::from_secs(1),
        "the one that is to find out"
    );
    assert!(admit(&origins, BAD).await.err().unwrap() > pause);
    assert!(admit(&origins, GOOD).await.is_ok());

    tokio::time::sleep(pause).await;
    let probe = admit(&origins, BAD).await.unwrap();
    assert!(admit(&origins, BAD).await.is_err(), "one at a time");
    assert!(origins.next_recovered().now_or_never().is_none());
    probe.0.heard(Sign::Alive);
    assert_eq!(&*origins.next_recovered().await, BAD);
    assert!(admit(&origins, BAD).await.is_ok());
}

#[tokio::test]
async fn nobody_is_put_off_for_failures_for_longer_than_the_bound() {
    let (origins, _) = origins(10, 1000);
    fail(&origins, BAD, 100).await;
    admit(&origins, BAD).await.err().unwrap(); // it comes back as the probe
    let second = Duration::from_secs(1);
    let most = PARK_MAX.checked_sub(second).unwrap();
    assert_eq!(admit_after(&origins, BAD, most).await.err(), Some(second));
    assert!(admit_after(&origins, BAD, PARK_MAX).await.is_ok());
}

#[tokio::test]
async fn who_waited_for_its_turn_is_put_off_after_all_where_those_before_it_failed() {
    let (origins, _) = origins(1, 1000);
    fail(&origins, BAD, 99).await;
    let last = admit(&origins, BAD).await.unwrap();
    let mut waiting = Box::pin(admit(&origins, BAD));
    assert!((&mut waiting).now_or_never().is_none());
    last.0.heard(Sign::Failing);
    drop(last.1);
    assert!(waiting.await.is_err());
}

#[tokio::test]
async fn an_origin_without_trouble_and_without_jobs_is_forgotten() {
    let (origins, _) = origins(1, 1000);
    let known = || origins.shared.lock().origins.len();
    let pass = admit(&origins, GOOD).await.unwrap();
    {
        let mut given_up = Box::pin(admit(&origins, GOOD));
        assert!((&mut given_up).now_or_never().is_none());
    }
    fail(&origins, BAD, 1).await;
    assert_eq!(known(), 2);
    pass.0.heard(Sign::Alive);
    drop(pass.1);
    assert_eq!(known(), 1, "the one that failed is remembered");
    admit(&origins, BAD).await.unwrap().0.heard(Sign::Alive);
    assert_eq!(known(), 0);
}

#[tokio::test]
async fn of_a_small_worker_too_an_origin_has_half_and_of_one_place_that() {
    for (places, most) in [(1, 1), (2, 1), (3, 1), (4, 2), (16, 8), (31, 15)] {
        let (origins, slots) = origins(100, places);
        let _all = slots.take(1, places as usize).await.unwrap();
        let mut admitted = Vec::new();
        while let Ok(job) = admit(&origins, BAD).await {
            admitted.push(job);
        }
        assert_eq!(admitted.len(), most, "of {places}");
    }
}

#[tokio::test]
async fn a_connection_that_outlives_its_job_counts_for_the_next_one() {
    let (origins, _) = origins(1, 1000);
    let (pass, turn) = admit(&origins, GOOD).await.unwrap();
    pass.heard(Sign::Alive);
    let mut next = Box::pin(admit(&origins, GOOD));
    assert!((&mut next).now_or_never().is_none());
    drop(turn);
    drop(next.await.unwrap());
    assert_eq!(origins.shared.lock().origins.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_is_left_alone_and_that_nobody_asks_for_any_more_is_forgotten() {
    let (origins, _) = origins(10, 1000);
    fail(&origins, BAD, 100).await;
    let open = || {
        let text = origins.shared.metrics.render();
        text.contains("storm_worker_open_breakers 1")
    };
    assert!(open());
    let known = || origins.shared.lock().origins.len();
    tokio::select! {
        () = origins.forget() => {}
        () = tokio::time::sleep(FORGOTTEN + 2 * SWEEP) => {}
    }
    assert_eq!(known(), 0);
    assert!(!open());
}

#[tokio::test(start_paused = true)]
async fn no_more_origins_are_remembered_than_the_bound() {
    let (origins, _) = origins(10, 1000);
    for number in 0..=REMEMBERED {
        fail(&origins, &format!("http://n{number}.example"), 1).await;
    }
    let called = admit(&origins, GOOD).await.unwrap();
    origins.shared.sweep();
    assert_eq!(
        origins.shared.lock().origins.len(),
        1,
        "who is called stays"
    );
    drop(called);
}
