//! The pool's limits, tested with fake connections.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use storm_shared::models::{CallbackUrl, Origin};
use tokio::time::advance;

use super::{MAX_IDLE, MAX_IDLE_TIME, MAX_PER_ORIGIN, Pool, Poolable, SWEEP_PERIOD};
use crate::delivery::SocketLimit;

/// A numbered connection. On drop (its close) it removes itself from `living`.
struct Fake {
    number: usize,
    origin: Origin,
    open: Arc<AtomicBool>,
    living: Arc<Mutex<BTreeSet<usize>>>,
}

impl Poolable for Fake {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.living.lock().unwrap().remove(&self.number);
    }
}

fn parsed(origin: &str) -> Origin {
    CallbackUrl::parse(origin).unwrap().origin().clone()
}

#[derive(Default)]
struct Fakes {
    living: Arc<Mutex<BTreeSet<usize>>>,
    made: usize,
}

impl Fakes {
    fn open(&mut self, origin: &str) -> Fake {
        let number = self.made;
        self.made += 1;
        self.living.lock().unwrap().insert(number);
        Fake {
            number,
            origin: parsed(origin),
            open: Arc::new(AtomicBool::new(true)),
            living: Arc::clone(&self.living),
        }
    }

    fn living(&self) -> Vec<usize> {
        self.living.lock().unwrap().iter().copied().collect()
    }
}

#[tokio::test(start_paused = true)]
async fn the_most_recently_idle_connection_is_reused_first_and_only_for_its_origin() {
    let (pool, mut fakes) = (Pool::new(&SocketLimit::none()), Fakes::default());
    pool.put(fakes.open("http://a"));
    pool.put(fakes.open("http://b"));
    pool.put(fakes.open("http://a"));
    let take = |origin| pool.take(&parsed(origin)).map(|fake| fake.number);
    assert_eq!(
        [take("http://a"), take("http://a"), take("http://a")],
        [Some(2), Some(0), None]
    );
    assert_eq!([take("http://b"), take("http://b")], [Some(1), None]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_its_peer_closed_is_skipped() {
    let (pool, mut fakes) = (Pool::new(&SocketLimit::none()), Fakes::default());
    let (open, closed) = (fakes.open("http://a"), fakes.open("http://a"));
    closed.open.store(false, Ordering::Relaxed);
    pool.put(open);
    pool.put(closed);
    assert_eq!(
        pool.take(&parsed("http://a")).map(|fake| fake.number),
        Some(0)
    );
}

#[tokio::test(start_paused = true)]
async fn over_the_limit_per_origin_its_oldest_connection_is_closed() {
    let (pool, mut fakes) = (Pool::new(&SocketLimit::none()), Fakes::default());
    pool.put(fakes.open("http://b"));
    for _ in 0..MAX_PER_ORIGIN + 2 {
        pool.put(fakes.open("http://a"));
    }
    let mut expected: Vec<_> = (3..MAX_PER_ORIGIN + 3).collect();
    expected.insert(0, 0); // older, but of another origin
    assert_eq!(fakes.living(), expected);
}

#[tokio::test(start_paused = true)]
async fn over_the_total_limit_the_oldest_connection_is_closed() {
    let (pool, mut fakes) = (Pool::new(&SocketLimit::none()), Fakes::default());
    for index in 0..MAX_IDLE + 2 {
        pool.put(fakes.open(&format!("http://{}", index / 2)));
    }
    assert_eq!(fakes.living(), (2..MAX_IDLE + 2).collect::<Vec<_>>());
    assert!(pool.take(&parsed("http://0")).is_none());
    assert!(pool.take(&parsed("http://1")).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_pool_of_one_origin_keeps_as_many_as_it_was_told_last() {
    let (pool, mut fakes) = (
        Pool::of_one_origin(9, &SocketLimit::none()),
        Fakes::default(),
    );
    pool.keep_at_most(2);
    for _ in 0..5 {
        pool.put(fakes.open("http://a"));
    }
    assert_eq!(fakes.living(), [3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_past_its_idle_timeout_is_not_reused() {
    let (pool, mut fakes) = (Pool::new(&SocketLimit::none()), Fakes::default());
    pool.put(fakes.open("http://a"));
    advance(MAX_IDLE_TIME.saturating_sub(Duration::from_millis(1))).await;
    pool.put(pool.take(&parsed("http://a")).unwrap());
    advance(MAX_IDLE_TIME).await;
    assert!(pool.take(&parsed("http://a")).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_unused_connection_is_closed_after_the_idle_timeout() {
    let (pool, mut fakes) = (Pool::new(&SocketLimit::none()), Fakes::default());
    pool.put(fakes.open("http://a"));
    // The clock is paused, so this returns at once.
    tokio::time::sleep(MAX_IDLE_TIME + SWEEP_PERIOD).await;
    assert!(fakes.living().is_empty());
    assert!(super::lock(&pool.idle).by_origin.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_pool_closes_its_connections() {
    let (pool, mut fakes) = (Pool::new(&SocketLimit::none()), Fakes::default());
    pool.put(fakes.open("http://a"));
    drop(pool);
    assert!(fakes.living().is_empty());
}
