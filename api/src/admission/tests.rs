use std::{sync::Arc, thread, time::Duration};

use storm_shared::{
    models::HandlerName,
    outage::Outage,
    services::store::{Ended, Load, OwnerId, TenantLoad},
};
use tokio::time::{Instant, advance};

use super::{
    Admitted, BacklogFull, Change, IsShared, QUIET_PERIOD, Shared,
    count::{LONGEST_UNMEASURED_WAIT, LONGEST_WAIT, RETRY_AFTER_STANDSTILL},
    lanes::{Drains, Rates},
};

const SECOND: Duration = Duration::from_secs(1);

fn shared(limit: u64) -> Arc<Shared> {
    shared_by_handlers(limit, false)
}

fn shared_by_handlers(limit: u64, handlers: bool) -> Arc<Shared> {
    let is_shared = IsShared {
        tenants: false,
        handlers,
    };
    Arc::new(Shared::new(limit, is_shared))
}

/// A rate of so many jobs a second, all of which are short.
fn rate(ended: u64) -> Rates {
    rates(ended, 0)
}

/// So many short and long jobs a second, while more of both wait.
fn rates(short: u64, long: u64) -> Rates {
    measured(&load_of(1_000_000, 1_000_000), short, long)
}

/// The rates after a second in which so many jobs have ended, and this was the load throughout.
fn measured(load: &Load, short: u64, long: u64) -> Rates {
    let owner = OwnerId::generate();
    let load = |ended| Load {
        ended: [(owner, ended)].into(),
        ..load.clone()
    };
    let (mut drains, begun) = (Drains::new(1_000_000_000), Instant::now());
    drains.counted(begun, &load(Ended::default()));
    let ended = Ended {
        jobs: short + long,
        long_jobs: long,
    };
    drains.counted(begun + SECOND, &load(ended))
}

/// So many short and long jobs that wait, of the tenant without a name.
fn load_of(waiting_short: usize, waiting_long: usize) -> Load {
    let tenant = TenantLoad {
        unfinished: waiting_short + waiting_long,
        waiting_short,
        waiting_long,
    };
    Load {
        unfinished: tenant.unfinished,
        waiting: tenant.unfinished,
        tenants: [(None, tenant)].into(),
        ..Load::default()
    }
}

/// So many jobs, of the tenant without a name. Those that wait are short.
fn load(unfinished: usize, waiting: usize) -> Load {
    let tenant = TenantLoad {
        unfinished,
        waiting_short: waiting,
        waiting_long: 0,
    };
    Load {
        unfinished,
        waiting,
        tenants: [(None, tenant)].into(),
        ..Load::default()
    }
}

/// A count that begins and ends now.
fn count(shared: &Shared, load: &Load, rates: Rates) {
    let (written, _) = shared.begin();
    shared.counted(written, load, rates);
}

fn admit(shared: &Arc<Shared>) -> Result<Arc<Admitted>, BacklogFull> {
    shared.admit(None, &HandlerName::REPORT, false)
}

/// The seconds after which a client should retry that is refused now.
fn refused(shared: &Arc<Shared>) -> u64 {
    let BacklogFull { retry_after, .. } = admit(shared).err().expect("a full backlog");
    retry_after.as_secs()
}

#[tokio::test]
async fn what_was_accepted_since_the_last_count_is_added_to_it() {
    let shared = shared(5);
    count(&shared, &load(2, 0), rate(0));
    let in_flight = admit(&shared).unwrap();
    drop(admit(&shared).unwrap());
    admit(&shared).unwrap().withdraw();
    let last = admit(&shared).unwrap();
    assert!(admit(&shared).is_err());
    // A count that began now sees the one that was written, and adds those in flight.
    count(&shared, &load(3, 0), rate(0));
    assert!(admit(&shared).is_err());
    drop(in_flight);
    assert!(admit(&shared).is_err(), "it is written, after the count");
    last.withdraw();
    drop(last);
    drop(admit(&shared).unwrap());
    assert!(admit(&shared).is_err());
    // Some have ended.
    count(&shared, &load(3, 0), rate(0));
    drop(admit(&shared).unwrap());
    drop(admit(&shared).unwrap());
    assert!(admit(&shared).is_err());
}

#[tokio::test]
async fn a_job_whose_client_is_gone_is_in_flight_until_its_write_is_over() {
    let shared = shared(1);
    let of_write = {
        let of_client = admit(&shared).unwrap();
        Arc::clone(&of_client)
    };
    // Its row is not committed, so no count has it.
    for _ in 0..3 {
        count(&shared, &load(0, 0), rate(0));
        assert!(admit(&shared).is_err());
    }
    drop(of_write);
    assert!(admit(&shared).is_err());
    count(&shared, &load(0, 0), rate(0));
    assert!(admit(&shared).is_ok());
}

#[tokio::test]
async fn no_handler_fills_the_backlog_so_that_another_has_no_room() {
    let shared = shared_by_handlers(800, true);
    let dead: HandlerName = "dead".parse().unwrap();
    let admitted = |handler: &HandlerName| {
        let admit = || shared.admit(None, handler, true);
        std::iter::from_fn(|| admit().ok()).count()
    };
    assert_eq!(admitted(&dead), 700);
    let refusal = |handler: &HandlerName| shared.admit(None, handler, true).err().unwrap();
    assert_eq!(refusal(&dead).handler, Some(dead.clone()));
    assert_eq!(shared.check(&None, &dead), Err(refusal(&dead)));
    assert_eq!(admitted(&HandlerName::REPORT), 100);
    assert_eq!(refusal(&dead).handler, None, "the limit holds for all");
    // As reports end, the room is theirs, and that of handlers who have none yet.
    let counted = |dead_jobs, reports| Load {
        handlers: [(dead.clone(), dead_jobs), (HandlerName::REPORT, reports)].into(),
        ..load(dead_jobs + reports, 0)
    };
    count(&shared, &counted(700, 50), rate(0));
    assert_eq!(admitted(&dead), 0);
    assert_eq!(admitted(&"third".parse().unwrap()), 50);
    // Jobs whose callback waits count for no handler.
    let callbacks = Load {
        unfinished: 790,
        ..counted(300, 1)
    };
    count(&shared, &callbacks, rate(0));
    assert_eq!(admitted(&dead), 10);
}

#[tokio::test]
async fn of_submissions_at_once_no_more_are_admitted_than_there_is_room_for() {
    let shared = shared(1000);
    count(&shared, &load(300, 0), rate(0));
    let admitted = thread::scope(|scope| {
        let admit = || (0..500).filter(|_| admit(&shared).is_ok()).count();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(admit)).collect();
        let admitted = threads.into_iter().map(|thread| thread.join().unwrap());
        admitted.sum::<usize>()
    });
    assert_eq!(admitted, 700);
}

#[tokio::test]
async fn a_refused_client_is_told_when_there_should_be_room_at_this_rate() {
    let shared = shared(100);
    for (unfinished, ended, seconds) in [
        (199, 10, 10),
        (199, 50, 2),
        (109, 10, 1),
        (100, 10, 1),
        (100, 1_000_000, 1),
        (200_000, 1, 600),
    ] {
        count(&shared, &load(unfinished, 0), rate(ended));
        assert_eq!(refused(&shared), seconds, "{unfinished} at {ended}/s");
    }
    let standstill = RETRY_AFTER_STANDSTILL.as_secs();
    let paused = Load {
        is_paused: true,
        ..load(100, 0)
    };
    count(&shared, &paused, rate(10));
    assert_eq!(refused(&shared), standstill);
    count(&shared, &load(100, 0), rate(0));
    assert_eq!(refused(&shared), standstill);
}

/// The wait that a job is told which is admitted now.
fn wait(shared: &Arc<Shared>) -> Duration {
    admit(shared).unwrap().wait()
}

#[tokio::test(start_paused = true)]
async fn a_job_waits_for_those_before_it_at_this_rate() {
    let shared = shared(1_000_000);
    assert_eq!(wait(&shared), Duration::ZERO, "nothing is known");
    count(&shared, &load(500, 300), rate(100));
    assert_eq!(wait(&shared), 3 * SECOND);
    // 99 more since, of which 50 have begun.
    for _ in 1..99 {
        drop(admit(&shared).unwrap());
    }
    advance(SECOND / 2).await;
    assert_eq!(wait(&shared), Duration::from_millis(3490));
    // Those that run do not matter, nor does a rate without anything that waits.
    count(&shared, &load(500, 0), rate(100));
    assert_eq!(wait(&shared), Duration::ZERO);
    count(&shared, &load(500, 300), rate(0));
    assert_eq!(wait(&shared), Duration::ZERO, "nothing ends: unknown");
    count(&shared, &load(900_000, 900_000), rate(1));
    assert_eq!(wait(&shared), LONGEST_WAIT);
}

#[tokio::test(start_paused = true)]
async fn a_tenants_job_waits_for_no_more_of_another_tenants_jobs_than_of_its_own() {
    let shared = shared(1_000_000);
    count(&shared, &load(10_000, 10_000), rate(100));
    assert_eq!(wait(&shared), 100 * SECOND);
    let small = || Some("small".parse().unwrap());
    for _ in 0..100 {
        drop(shared.admit(small(), &HandlerName::REPORT, false).unwrap());
    }
    let admitted = shared.admit(small(), &HandlerName::REPORT, false).unwrap();
    assert_eq!(admitted.wait(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn while_the_workers_keep_up_a_job_does_not_wait_for_those_accepted_since() {
    let shared = shared(1_000_000);
    count(&shared, &load(500, 5), rate(100));
    for _ in 0..1000 {
        drop(admit(&shared).unwrap());
    }
    assert_eq!(wait(&shared), SECOND / 20);
}

#[tokio::test(start_paused = true)]
async fn a_full_backlog_is_logged_once_and_so_is_its_end() {
    let (shared, mut outage) = (shared(1), Outage::with_quiet_period(QUIET_PERIOD));
    count(&shared, &load(1, 0), rate(0));
    let mut changes = Vec::new();
    for second in 0..60 {
        // As clients come that are refused, or not for a while.
        if matches!(second, 3 | 5 | 10 | 40) {
            assert!(admit(&shared).is_err());
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

#[tokio::test(start_paused = true)]
async fn a_long_job_waits_for_the_long_ones_at_their_own_rate_and_for_all_at_that_of_all() {
    let shared = shared(1_000_000);
    let waits = || {
        let waits = |is_long| {
            shared
                .admit(None, &HandlerName::REPORT, is_long)
                .unwrap()
                .wait()
        };
        [false, true].map(waits)
    };
    // Short ones pass, so that the workers end many jobs and few long ones.
    count(&shared, &load_of(0, 300), rates(100, 5));
    assert_eq!(waits(), [Duration::ZERO, 60 * SECOND]);
    for _ in 0..99 {
        drop(shared.admit(None, &HandlerName::REPORT, false).unwrap());
    }
    assert_eq!(waits()[1], 60 * SECOND + SECOND / 5, "one long one more");
    // Short ones hold all slots.
    count(&shared, &load_of(1000, 2), rates(100, 1));
    assert_eq!(waits()[0], 10 * SECOND);
    assert!(waits()[1] > 9 * SECOND, "{:?}", waits());
    // The workers of the previous release don't say how many of the jobs were long.
    count(&shared, &load_of(0, 300), rates(100, 0));
    assert_eq!(waits()[1].as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_rate_of_workers_that_had_little_work_lets_no_job_of_a_storm_wait_for_long() {
    let shared = shared(1_000_000);
    let trickle = measured(&load(0, 0), 1, 0);
    assert_eq!(trickle.all.per_second().to_bits(), 1.0_f64.to_bits());
    count(&shared, &load(900, 900), trickle);
    assert_eq!(wait(&shared), LONGEST_UNMEASURED_WAIT);
    count(&shared, &load(900, 900), rate(1));
    assert_eq!(wait(&shared), 900 * SECOND);
}
