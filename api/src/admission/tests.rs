use std::{sync::atomic::Ordering, thread, time::Duration};

use storm_shared::{
    outage::Outage,
    services::store::{Load, OwnerId},
};
use tokio::time::{Instant, advance};

use super::{
    BacklogFull, Change, Count, LONGEST_WAIT, QUIET_PERIOD, RETRY_AFTER_STANDSTILL, Shared,
    drain::{Drain, DrainRate},
};

const SECOND: Duration = Duration::from_secs(1);

/// A rate of so many jobs a second.
fn rate(ended: u64) -> DrainRate {
    let owner = OwnerId::generate();
    let load = |ended| Load {
        unfinished: 9,
        waiting: 9,
        ended: [(owner, ended)].into(),
    };
    let (mut drain, begun) = (Drain::new(9), Instant::now());
    drain.counted(begun, load(0));
    drain.counted(begun + SECOND, load(ended))
}

/// A count of now, which has missed no submission.
fn count(shared: &Shared, unfinished: u64, waiting: u64, rate: DrainRate) -> Count {
    Count {
        at: Instant::now(),
        unfinished,
        waiting,
        rate,
        written: shared.written.load(Ordering::Acquire),
    }
}

/// The seconds after which a client should retry that is refused now.
fn refused(shared: &Shared) -> u64 {
    let BacklogFull { retry_after } = shared.admit().err().expect("a full backlog");
    retry_after.as_secs()
}

#[tokio::test]
async fn what_was_accepted_since_the_last_count_is_added_to_it() {
    let shared = Shared::new(5);
    shared.counted(count(&shared, 2, 0, rate(0)));
    let in_flight = shared.admit().unwrap();
    drop(shared.admit().unwrap());
    shared.admit().unwrap().withdraw();
    let last = shared.admit().unwrap();
    assert!(shared.admit().is_err());
    // A count that began now sees the one that was written, and adds those in flight.
    shared.counted(count(&shared, 3, 0, rate(0)));
    assert!(shared.admit().is_err());
    drop(in_flight);
    assert!(shared.admit().is_err(), "it is written, after the count");
    last.withdraw();
    drop(shared.admit().unwrap());
    assert!(shared.admit().is_err());
    // Some have ended.
    shared.counted(count(&shared, 3, 0, rate(0)));
    drop(shared.admit().unwrap());
    drop(shared.admit().unwrap());
    assert!(shared.admit().is_err());
}

#[tokio::test]
async fn of_submissions_at_once_no_more_are_admitted_than_there_is_room_for() {
    let shared = Shared::new(1000);
    shared.counted(count(&shared, 300, 0, rate(0)));
    let admitted = thread::scope(|scope| {
        let admit = || (0..500).filter(|_| shared.admit().is_ok()).count();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(admit)).collect();
        let admitted = threads.into_iter().map(|thread| thread.join().unwrap());
        admitted.sum::<usize>()
    });
    assert_eq!(admitted, 700);
}

#[tokio::test]
async fn a_refused_client_is_told_when_there_should_be_room_at_this_rate() {
    let shared = Shared::new(100);
    for (unfinished, ended, seconds) in [
        (199, 10, 10),
        (199, 50, 2),
        (109, 10, 1),
        (100, 10, 1),
        (100, 1_000_000, 1),
        (200_000, 1, 600),
    ] {
        shared.counted(count(&shared, unfinished, 0, rate(ended)));
        assert_eq!(refused(&shared), seconds, "{unfinished} at {ended}/s");
    }
    shared.counted(count(&shared, 100, 0, rate(0)));
    assert_eq!(refused(&shared), RETRY_AFTER_STANDSTILL.as_secs());
}

/// The wait that a job is told which is admitted now.
fn wait(shared: &Shared) -> Duration {
    shared.admit().unwrap().wait()
}

#[tokio::test(start_paused = true)]
async fn a_job_waits_for_those_before_it_at_this_rate() {
    let shared = Shared::new(1_000_000);
    assert_eq!(wait(&shared), Duration::ZERO, "nothing is known");
    shared.counted(count(&shared, 500, 300, rate(100)));
    assert_eq!(wait(&shared), 3 * SECOND);
    // 99 more since, of which 50 have begun.
    for _ in 1..99 {
        drop(shared.admit().unwrap());
    }
    advance(SECOND / 2).await;
    assert_eq!(wait(&shared), Duration::from_millis(3490));
    // Those that run do not matter, nor does a rate without anything that waits.
    shared.counted(count(&shared, 500, 0, rate(100)));
    assert_eq!(wait(&shared), Duration::ZERO);
    shared.counted(count(&shared, 500, 300, rate(0)));
    assert_eq!(wait(&shared), Duration::ZERO, "nothing ends: unknown");
    shared.counted(count(&shared, 900_000, 900_000, rate(1)));
    assert_eq!(wait(&shared), LONGEST_WAIT);
}

#[tokio::test(start_paused = true)]
async fn while_the_workers_keep_up_a_job_does_not_wait_for_those_accepted_since() {
    let shared = Shared::new(1_000_000);
    shared.counted(count(&shared, 500, 5, rate(100)));
    for _ in 0..1000 {
        drop(shared.admit().unwrap());
    }
    assert_eq!(wait(&shared), SECOND / 20);
}

#[tokio::test(start_paused = true)]
async fn a_full_backlog_is_logged_once_and_so_is_its_end() {
    let (shared, mut outage) = (Shared::new(1), Outage::with_quiet_period(QUIET_PERIOD));
    shared.counted(count(&shared, 1, 0, rate(0)));
    let mut changes = Vec::new();
    for second in 0..60 {
        // As clients come that are refused, or not for a while.
        if matches!(second, 3 | 5 | 10 | 40) {
            assert!(shared.admit().is_err());
        }
        changes.extend(shared.change(&mut outage).map(|change| (second, change)));
        advance(SECOND).await;
    }
    let [full, recovered] = [Change::Full, Change::Recovered];
    assert_eq!(
        changes,
        [(3, full), (20, recovered), (40, full), (50, recovered)]
    );
}
