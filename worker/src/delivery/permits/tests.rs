use std::{collections::HashMap, pin::Pin};

use futures_util::{FutureExt, future::BoxFuture};
use storm_shared::models::ClientName;

use super::{ConnectionPermit, Permits};

fn tenant(name: &str) -> ClientName {
    name.parse().unwrap()
}

/// All that are free.
fn take_all(permits: &Permits, name: &str) -> Vec<ConnectionPermit> {
    let permits = permits.of(Some(tenant(name)));
    std::iter::from_fn(|| permits.try_acquire()).collect()
}

type Job = BoxFuture<'static, ConnectionPermit>;

/// A job that waits from now on.
fn wait(permits: &Permits, name: &str) -> Job {
    let permits = permits.of(Some(tenant(name)));
    let mut job = async move { permits.acquire().await }.boxed();
    assert!((&mut job).now_or_never().is_none(), "{name} waits");
    job
}

fn is_served(job: &mut Job) -> Option<ConnectionPermit> {
    Pin::new(job).now_or_never()
}

/// Releases `held`, oldest first, and whatever is served by that, until nobody is. Returns the
/// order in which the jobs were served.
fn order(mut held: Vec<ConnectionPermit>, jobs: &mut [(&'static str, Job)]) -> Vec<&'static str> {
    let mut done = vec![false; jobs.len()];
    let mut order = Vec::new();
    while !held.is_empty() {
        drop(held.remove(0));
        for ((name, job), done) in jobs.iter_mut().zip(&mut done) {
            if !*done && let Some(permit) = is_served(job) {
                *done = true;
                order.push(*name);
                held.push(permit);
            }
        }
    }
    order
}

#[test]
fn a_lone_tenant_gets_the_whole_limit_and_then_waits_in_order() {
    let permits = Permits::new(3);
    let mut held = take_all(&permits, "a");
    assert_eq!((held.len(), permits.free()), (3, 0));
    let (mut first, mut second) = (wait(&permits, "a"), wait(&permits, "a"));
    held.pop();
    assert!(is_served(&mut second).is_none());
    assert!(is_served(&mut first).is_some());
    assert!(
        is_served(&mut second).is_some(),
        "by the permit of the first"
    );
    held.clear();
    assert!(permits.are_idle());
}

#[test]
fn a_released_permit_goes_to_the_waiting_tenant_that_holds_the_fewest() {
    let permits = Permits::new(6);
    let mut held = take_all(&permits, "a");
    let _more_of_a: Vec<_> = (0..9).map(|_| wait(&permits, "a")).collect();
    let mut others: Vec<_> = (0..9).map(|_| wait(&permits, "b")).collect();
    // Down to half of the limit each.
    let mut held_by_b = Vec::new();
    for job in &mut others[..3] {
        held.pop();
        held_by_b.extend(is_served(job));
    }
    assert_eq!(held_by_b.len(), 3);
    held.pop();
    assert!(
        others[3..].iter_mut().all(|job| is_served(job).is_none()),
        "it is a's turn"
    );
}

#[test]
fn tenants_that_hold_equally_many_take_turns() {
    let permits = Permits::new(1);
    let held = take_all(&permits, "a");
    let names = ["a", "a", "a", "a", "b", "b", "c"];
    let mut jobs = names.map(|name| (name, wait(&permits, name)));
    assert_eq!(order(held, &mut jobs), ["a", "b", "c", "a", "b", "a", "a"]);
    assert!(permits.are_idle());
}

/// A tenant that waits anew stands behind those that wait already, or it could come and go to be
/// always the first.
#[test]
fn a_tenant_that_comes_again_and_again_gets_no_more_than_its_turns() {
    let permits = Permits::new(1);
    let mut held = take_all(&permits, "greedy");
    let mut others: Vec<_> = ["b", "c", "d"].map(|name| wait(&permits, name)).into();
    let mut again = wait(&permits, "greedy");
    for job in &mut others {
        held.clear();
        assert!(is_served(&mut again).is_none());
        held.extend(is_served(job));
        assert_eq!(held.len(), 1);
    }
    held.clear();
    assert!(is_served(&mut again).is_some());
}

#[test]
fn a_hostile_tenant_keeps_its_share_among_fifty() {
    let permits = Permits::new(100);
    let mut held = take_all(&permits, "hostile");
    let _hostile: Vec<_> = (0..500).map(|_| wait(&permits, "hostile")).collect();
    let mut honest = Vec::new();
    for round in 0..4 {
        for number in 0..49 {
            let name = format!("t{number}");
            honest.push((number, round, wait(&permits, &name)));
        }
    }
    held.truncate(2);
    let mut served = HashMap::new();
    let mut now_held = Vec::new();
    for (number, _, job) in &mut honest {
        if let Some(permit) = is_served(job) {
            *served.entry(*number).or_insert(0) += 1;
            now_held.push(permit);
        }
    }
    assert_eq!(served.len(), 49);
    assert!(served.values().all(|count| *count == 2), "{served:?}");
}

#[test]
fn a_job_that_is_dropped_while_it_waits_leaks_neither_its_turn_nor_a_permit() {
    let permits = Permits::new(1);
    let mut held = take_all(&permits, "a");
    let (gone, mut next) = (wait(&permits, "b"), wait(&permits, "c"));
    drop(gone);
    held.clear();
    let served = is_served(&mut next);
    assert!(served.is_some());
    drop(served);
    assert!(permits.are_idle());
    assert!(permits.gate.lock().tenants.is_empty() && permits.gate.lock().queue.is_empty());
}

#[test]
fn a_permit_whose_job_is_dropped_before_it_takes_it_goes_to_the_next() {
    let permits = Permits::new(1);
    let mut held = take_all(&permits, "a");
    let (first, mut second) = (wait(&permits, "b"), wait(&permits, "c"));
    held.clear(); // `first` is served, but has not run since
    assert!(is_served(&mut second).is_none());
    drop(first);
    assert!(is_served(&mut second).is_some());
    assert!(permits.are_idle());
}

#[test]
fn thousands_of_jobs_that_are_dropped_at_once_return_every_permit() {
    let permits = Permits::new(2);
    let held = take_all(&permits, "a");
    let names = ["a", "b", "c", "d"];
    let jobs: Vec<_> = (0..20_000)
        .map(|number| wait(&permits, names[number % names.len()]))
        .collect();
    drop(held);
    drop(jobs);
    assert!(permits.are_idle());
    assert!(permits.gate.lock().tenants.is_empty() && permits.gate.lock().queue.is_empty());
}

#[test]
fn a_share_is_the_limit_divided_by_the_tenants_rounded_up() {
    let permits = Permits::new(5);
    let [a, b, c] = ["a", "b", "c"].map(|name| permits.of(Some(tenant(name))));
    assert_eq!((a.share(), b.share()), (5, 5));
    let _held = a.try_acquire();
    assert_eq!((a.share(), b.share()), (5, 3));
    let _held = b.try_acquire();
    assert_eq!((a.share(), c.share()), (3, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_permit_is_lost_when_jobs_are_served_and_cut_off_at_once() {
    let permits = Permits::new(3);
    let mut jobs = Vec::new();
    for number in 0..600 {
        let its = permits.of(Some(tenant(["a", "b", "c"][number % 3])));
        jobs.push(tokio::spawn(async move {
            for _ in 0..20 {
                let permit = its.acquire().await;
                tokio::task::yield_now().await;
                drop(permit);
            }
        }));
    }
    for job in jobs.iter().step_by(2) {
        tokio::task::yield_now().await;
        job.abort();
    }
    for job in jobs {
        let _ = job.await;
    }
    assert!(permits.are_idle());
    assert!(permits.gate.lock().tenants.is_empty() && permits.gate.lock().queue.is_empty());
}
