//! The jobs that wait in line for room at their destination, in a worker whose slots are all taken.

use std::time::Duration;

use futures_util::{FutureExt, future::BoxFuture};

use super::{
    Admitted, BAD, GOOD, MIN_SLOTS, Origins, PARK_MAX, Signal, admit, destination, lock, now,
    origins,
};
use crate::workers::{origins::line::LONGEST_WAIT, slots::Slot};

type Outcome = Result<Admitted, Duration>;

/// A job that has asked for admission. Dropping it gives it up.
type Job = BoxFuture<'static, Outcome>;

/// A worker with all of its `slots` taken.
async fn full(slots: u32) -> (Origins, Slot) {
    let (origins, all) = origins(1000, slots);
    (origins, all.take(1, slots as usize).await)
}

/// A job that asks for admission now, and what comes of that unless it waits.
fn ask(origins: &Origins, tenant: Option<&str>, origin: &str) -> (Job, Option<Outcome>) {
    let (origins, destination) = (origins.clone(), destination(tenant, origin));
    let mut job = async move { origins.admit(destination, Duration::ZERO).await }.boxed();
    let outcome = now(&mut job);
    (job, outcome)
}

/// Jobs ask until one is parked: those that were admitted, and those that wait.
fn ask_until_parked(
    origins: &Origins,
    tenant: Option<&str>,
    origin: &str,
) -> (Vec<Admitted>, Vec<Job>) {
    let (mut admitted, mut waiting) = (Vec::new(), Vec::new());
    loop {
        match ask(origins, tenant, origin) {
            (job, None) => waiting.push(job),
            (_, Some(Ok(job))) => admitted.push(job),
            (_, Some(Err(_))) => return (admitted, waiting),
        }
    }
}

fn parks(origins: &Origins, why: &str) -> usize {
    let text = origins.shared.metrics.render();
    let name = format!("storm_worker_parked_jobs_total{{why=\"{why}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn jobs_that_come_together_at_an_origins_limit_get_room_in_their_order_and_none_is_parked() {
    const JOBS: usize = MIN_SLOTS + 50;
    let (origins, _taken) = full(1000).await;
    let mut admitted = Vec::new();
    let mut line = Vec::new();
    for _ in 0..JOBS {
        match ask(&origins, None, BAD) {
            (job, None) => line.push(job),
            (_, Some(outcome)) => admitted.push(outcome.unwrap()),
        }
    }
    assert_eq!(admitted.len(), MIN_SLOTS);
    while !line.is_empty() {
        for job in &mut line {
            assert!(now(job).is_none(), "there is no room yet");
        }
        admitted.remove(0).record(Signal::Success);
        let (mut newer, outcome) = ask(&origins, None, BAD);
        assert!(outcome.is_none(), "it overtakes nobody");
        for later in line.iter_mut().skip(1).rev() {
            assert!(now(later).is_none(), "before its turn");
        }
        admitted.push(now(line.remove(0)).unwrap().unwrap());
        assert!(now(&mut newer).is_none());
    }
    assert_eq!(parks(&origins, "origin_busy"), 0);
    drop(admitted);
    assert!(lock(&origins.shared.state).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_never_answers_makes_nobody_wait_for_more_than_a_moment() {
    const SLOTS: u32 = 200;
    let (origins, _taken) = full(SLOTS).await;
    let (mut admitted, mut line) = ask_until_parked(&origins, None, BAD);
    // It is new, so it may be a quick one. Even so it holds less than half of the slots.
    assert!(admitted.len() + line.len() <= SLOTS as usize / 2);
    assert!(line.len() > MIN_SLOTS);
    assert!(admit(&origins, GOOD).await.is_ok(), "no other one waits");

    tokio::time::advance(LONGEST_WAIT).await;
    let parked_before = parks(&origins, "origin_busy");
    for job in &mut line {
        assert!(job.await.is_err());
    }
    assert_eq!(parks(&origins, "origin_busy") - parked_before, line.len());
    // From now on none waits for it.
    for _ in 0..100 {
        let (_, outcome) = ask(&origins, None, BAD);
        assert!(outcome.is_some_and(|it| it.is_err()));
    }
    // Nor when its attempts time out, from the first ones on.
    tokio::time::advance(Duration::from_secs(10)).await;
    for _ in 0..4 {
        admitted.remove(0).record(Signal::Failure);
        admitted.push(admit(&origins, BAD).await.unwrap());
    }
    let (_, line) = ask_until_parked(&origins, None, BAD);
    assert_eq!(line.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn jobs_in_line_count_for_their_tenant_of_whom_another_has_room() {
    const SLOTS: u32 = 200;
    let (origins, _taken) = full(SLOTS).await;
    let mut hostile = Vec::new();
    for number in 0..SLOTS {
        let origin = format!("http://n{number}.example");
        hostile.push(ask_until_parked(&origins, Some("a"), &origin));
    }
    let held: usize = hostile
        .iter()
        .map(|(jobs, line)| jobs.len() + line.len())
        .sum();
    assert!(held <= SLOTS as usize * 7 / 8, "{held}");
    let (_, outcome) = ask(&origins, Some("b"), GOOD);
    assert!(outcome.is_some_and(|it| it.is_ok()));
    drop(hostile);
    origins.shared.sweep();
    assert!(lock(&origins.shared.state).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_given_up_in_line_holds_up_nobody_behind_it() {
    let (origins, _taken) = full(1000).await;
    let (admitted, mut line) = ask_until_parked(&origins, None, BAD);
    drop(admitted); // the first in line has been told
    drop(line.drain(..3));
    let next = now(line.remove(0));
    assert!(next.is_some_and(|it| it.is_ok()));
    drop(line);
    assert!(lock(&origins.shared.state).is_empty());
}

#[tokio::test(start_paused = true)]
async fn jobs_in_line_are_parked_when_the_breaker_opens() {
    let (origins, _taken) = full(1000).await;
    let (mut admitted, mut line) = ask_until_parked(&origins, None, BAD);
    for _ in 0..99 {
        admitted.remove(0).record(Signal::Failure);
        admitted.push(now(line.remove(0)).unwrap().unwrap());
        line.push(ask(&origins, None, BAD).0);
    }
    admitted.remove(0).record(Signal::Failure);
    let waiting = line.len();
    for job in line {
        assert!(now(job).unwrap().is_err());
    }
    assert_eq!(parks(&origins, "origin_down"), waiting);
}

#[tokio::test(start_paused = true)]
async fn no_newer_job_waits_for_room_that_is_left_to_an_overdue_one() {
    let (origins, _taken) = full(1000).await;
    let (_admitted, line) = ask_until_parked(&origins, None, BAD);
    drop(line);
    tokio::time::advance(LONGEST_WAIT).await;
    let overdue = destination(None, BAD);
    assert!(origins.admit(overdue, PARK_MAX).await.is_err());
    let (_admitted, line) = ask_until_parked(&origins, None, BAD);
    assert_eq!(line.len(), 0);
}
