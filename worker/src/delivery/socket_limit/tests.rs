//! The limit on open sockets, tested with fake connections in real pools.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use storm_shared::{
    models::{CallbackUrl, Origin, RequestId},
    services::ssrf::Policy,
};
use tokio::time::{Instant, advance};

use super::{SocketLimit, SocketPermit};
use crate::delivery::{
    AttemptError, CallbackClient, Message, Network, Shortage,
    pool::{Pool, Poolable},
};

/// A connection that closes at once when it is dropped.
struct Fake {
    origin: Origin,
    open: Arc<AtomicBool>,
    /// `None` once its peer has closed it.
    _permit: Option<SocketPermit>,
}

impl Fake {
    fn new(origin: &str, permit: SocketPermit) -> Self {
        Self {
            origin: parsed(origin),
            open: Arc::new(AtomicBool::new(true)),
            _permit: Some(permit),
        }
    }

    /// One that its peer closes as soon as it is idle.
    fn closed(origin: &str) -> Self {
        Self {
            origin: parsed(origin),
            open: Arc::default(),
            _permit: None,
        }
    }
}

impl Poolable for Fake {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }
}

fn parsed(origin: &str) -> Origin {
    CallbackUrl::parse(origin).unwrap().origin().clone()
}

fn acquired(limit: &SocketLimit) -> SocketPermit {
    limit.acquire().now_or_never().expect("there is room")
}

fn free(limit: &SocketLimit) -> usize {
    limit.permits().0.available_permits()
}

#[tokio::test(start_paused = true)]
async fn the_connection_that_has_been_idle_for_longest_makes_room_in_whatever_pool_it_is() {
    let limit = SocketLimit::new(4);
    let (callbacks, handler) = (Pool::new(&limit), Pool::of_one_origin(9, &limit));
    for (pool, origin) in [
        (&callbacks, "http://a"),
        (&handler, "http://b"),
        (&callbacks, "http://c"),
        (&handler, "http://b"),
    ] {
        pool.put(Fake::new(origin, acquired(&limit)));
        advance(Duration::from_millis(1)).await;
    }
    assert_eq!(free(&limit), 0);
    let mut held = vec![acquired(&limit)];
    assert!(callbacks.take(&parsed("http://a")).is_none(), "the oldest");
    held.push(acquired(&limit));
    // The next one is of the other pool.
    let kept = handler.take(&parsed("http://b"));
    assert!(kept.is_some() && handler.take(&parsed("http://b")).is_none());
    assert!(callbacks.take(&parsed("http://c")).is_some());
}

#[tokio::test(start_paused = true)]
async fn connections_in_use_are_not_closed_and_a_dial_goes_on_as_soon_as_one_ends() {
    let limit = SocketLimit::new(2);
    let pool = Pool::new(&limit);
    let in_use: Vec<_> = (0..2)
        .map(|_| Fake::new("http://a", acquired(&limit)))
        .collect();
    let mut first = Box::pin(limit.acquire());
    let mut second = Box::pin(limit.acquire());
    assert!(first.as_mut().now_or_never().is_none());
    assert!(second.as_mut().now_or_never().is_none());
    let mut in_use = in_use.into_iter();
    drop(in_use.next());
    assert!(second.as_mut().now_or_never().is_none(), "in their turn");
    let first = first.as_mut().now_or_never().expect("one has ended");
    // One that becomes idle ends as well.
    pool.put(in_use.next().unwrap());
    let second = second.as_mut().now_or_never().expect("the other one, too");
    assert!(pool.take(&parsed("http://a")).is_none());
    // Nobody waits: the next one stays.
    drop(first);
    pool.put(Fake::new("http://a", second));
    assert!(pool.take(&parsed("http://a")).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_gives_up_leaves_its_turn_to_the_next_and_closes_no_more_connections() {
    let limit = SocketLimit::new(1);
    let pool = Pool::new(&limit);
    let in_use = Fake::new("http://a", acquired(&limit));
    let mut gives_up = Box::pin(limit.acquire());
    let mut next = Box::pin(limit.acquire());
    assert!(gives_up.as_mut().now_or_never().is_none());
    assert!(next.as_mut().now_or_never().is_none());
    drop(gives_up);
    pool.put(in_use);
    let permit = next.as_mut().now_or_never().expect("its turn");
    let in_use = Fake::new("http://a", permit);
    drop(next);
    let mut gives_up = Box::pin(limit.acquire());
    assert!(gives_up.as_mut().now_or_never().is_none());
    drop(gives_up);
    pool.put(in_use);
    assert!(pool.take(&parsed("http://a")).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_its_peer_has_closed_makes_no_room_so_the_next_one_is_closed() {
    let limit = SocketLimit::new(1);
    let pool = Pool::new(&limit);
    pool.put(Fake::closed("http://a"));
    pool.put(Fake::new("http://b", acquired(&limit)));
    drop(acquired(&limit));
    assert!(pool.take(&parsed("http://b")).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_second_socket_is_granted_only_if_one_is_free_and_makes_room_for_a_later_try() {
    let limit = SocketLimit::new(2);
    let pool = Pool::new(&limit);
    let held = limit.try_acquire().unwrap();
    pool.put(Fake::new("http://a", acquired(&limit)));
    assert!(limit.try_acquire().is_none());
    let second = limit.try_acquire().expect("the idle one is closed");
    let mut waits = Box::pin(limit.acquire());
    assert!(waits.as_mut().now_or_never().is_none());
    drop(held);
    assert!(limit.try_acquire().is_none(), "it is another one's turn");
    drop((second, waits));
    assert_eq!(free(&limit), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_is_gone_is_forgotten() {
    let limit = SocketLimit::new(1);
    let pool = Pool::new(&limit);
    pool.put(Fake::new("http://a", acquired(&limit)));
    drop(pool);
    let _held = acquired(&limit);
    let _pool = Pool::<Fake>::new(&limit);
    assert_eq!(limit.pools().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_waits_for_a_socket_for_a_small_part_of_its_time_and_then_is_a_shortage() {
    const TIMEOUT: Duration = Duration::from_secs(8);
    let limit = SocketLimit::new(1);
    let in_use = acquired(&limit);
    let policy = Policy::parse("127.0.0.0/8").unwrap();
    let network = Network::system().within(&limit);
    let client = CallbackClient::new(policy, network, TIMEOUT, None).unwrap();
    let url = CallbackUrl::parse("http://127.0.0.1:8080/hook").unwrap();
    let message = Message {
        id: RequestId::generate(),
        body: "{}".into(),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            .parse()
            .unwrap(),
    };
    let begun = Instant::now();
    // A socket that comes later would leave the receiver too little time, and it would be blamed.
    tokio::spawn(async move {
        tokio::time::sleep(TIMEOUT * 9 / 10).await;
        drop(in_use);
    });
    let error = client.attempt(&url, &message).await.unwrap_err();
    let is_shortage = matches!(error, AttemptError::Shortage(Shortage::Descriptors));
    assert!(is_shortage, "{error}");
    assert!(begun.elapsed() < TIMEOUT / 2);
    assert_eq!(free(&limit), 0);
}
