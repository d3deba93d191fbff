use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::BoxFuture;
use rustix::io::Errno;
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::{ATTEMPT_DELAY, Race, RaceError, interleaved};
use crate::delivery::{
    ConnectionPermit, Permits, SocketLimit, TenantPermits, network::Connect, shortage::Shortage,
};

const DEADLINE: Duration = Duration::from_secs(10);

/// What a dial comes to, after some time.
#[derive(Clone, Copy)]
enum Dialled {
    Never,
    Fails(Errno, Duration),
    Connects(Duration),
}

use Dialled::{Connects, Fails, Never};

/// A network that answers the n-th dial as scripted, on a paused clock.
#[derive(Default)]
struct FakeNetwork {
    script: Vec<Dialled>,
    dials: Mutex<Vec<Duration>>,
    order: Mutex<Vec<SocketAddr>>,
    /// Sockets open now, and the most at a time.
    open: Mutex<(usize, usize)>,
    began: Option<Instant>,
    /// Connections made before the clock was paused.
    made: Mutex<Vec<TcpStream>>,
}

impl FakeNetwork {
    /// The time since the race began, in tens of milliseconds: a timer takes up to one more.
    fn elapsed(&self) -> Duration {
        let elapsed = self.began.unwrap().elapsed().as_millis();
        Duration::from_millis(u64::try_from(elapsed / 10 * 10).unwrap())
    }
}

/// An open socket of the network.
struct Socket(Arc<FakeNetwork>);

impl Socket {
    fn open(network: Arc<FakeNetwork>) -> Self {
        let mut open = network.open.lock().unwrap();
        open.0 += 1;
        open.1 = open.1.max(open.0);
        drop(open);
        Self(network)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.open.lock().unwrap().0 -= 1;
    }
}

struct Shared(Arc<FakeNetwork>);

impl Connect for Shared {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        let network = Arc::clone(&self.0);
        let mut dials = network.dials.lock().unwrap();
        let dialled = network.script.get(dials.len()).copied().unwrap_or(Never);
        dials.push(network.elapsed());
        drop(dials);
        network.order.lock().unwrap().push(address);
        Box::pin(async move {
            let _socket = Socket::open(Arc::clone(&network));
            match dialled {
                Never => std::future::pending().await,
                Fails(errno, after) => {
                    tokio::time::sleep(after).await;
                    Err(io::Error::from_raw_os_error(errno.raw_os_error()))
                }
                Connects(after) => {
                    tokio::time::sleep(after).await;
                    Ok(network.made.lock().unwrap().pop().unwrap())
                }
            }
        })
    }
}

/// The result of a race, and the network that it took place in. Times are those of a paused clock.
async fn race(
    script: &[Dialled],
    addresses: &[&str],
    permits: Option<TenantPermits>,
) -> (Result<TcpStream, RaceError>, Arc<FakeNetwork>) {
    race_within(&SocketLimit::none(), script, addresses, permits).await
}

/// The same, with no more sockets than `limit` has permits beside that of the first dial.
async fn race_within(
    limit: &SocketLimit,
    script: &[Dialled],
    addresses: &[&str],
    permits: Option<TenantPermits>,
) -> (Result<TcpStream, RaceError>, Arc<FakeNetwork>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let made = TcpStream::connect(listener.local_addr().unwrap());
    let made = Mutex::new(vec![made.await.unwrap()]);
    tokio::time::pause();
    let network = Arc::new(FakeNetwork {
        script: script.to_vec(),
        began: Some(Instant::now()),
        made,
        ..FakeNetwork::default()
    });
    let race = Race {
        sockets: Arc::new(Shared(Arc::clone(&network))),
        limit: limit.clone(),
        deadline: Instant::now() + DEADLINE,
        permits,
    };
    let addresses: Vec<_> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    (race.run(&addresses).await, network)
}

fn one_permit(of: usize) -> (Permits, ConnectionPermit) {
    let permits = Permits::new(of);
    let held = permits.of(None).try_acquire().unwrap();
    (permits, held)
}

const FOUR: [&str; 4] = ["127.0.0.1:1", "127.0.0.2:1", "127.0.0.3:1", "127.0.0.4:1"];
const AT_ONCE: Duration = Duration::ZERO;

#[tokio::test]
async fn a_silent_first_address_costs_a_quarter_of_a_second_and_its_dial_is_closed() {
    let (connected, network) = race(&[Never, Connects(AT_ONCE)], &FOUR, None).await;
    assert!(connected.is_ok());
    assert_eq!(*network.dials.lock().unwrap(), [AT_ONCE, ATTEMPT_DELAY]);
    assert_eq!(*network.open.lock().unwrap(), (0, 2), "the loser is closed");
}

#[tokio::test]
async fn a_quick_first_address_is_the_only_one_dialled() {
    let quick = ATTEMPT_DELAY / 2;
    let (connected, network) = race(&[Connects(quick)], &FOUR, None).await;
    assert!(connected.is_ok());
    assert_eq!(*network.dials.lock().unwrap(), [AT_ONCE]);
}

#[tokio::test]
async fn a_slow_first_address_can_still_win() {
    let slow = Duration::from_secs(2);
    let (connected, network) = race(&[Connects(slow), Never], &FOUR[..2], None).await;
    assert!(connected.is_ok());
    assert_eq!(network.elapsed(), slow);
    assert_eq!(*network.open.lock().unwrap(), (0, 2));
}

#[tokio::test]
async fn a_failed_dial_starts_the_next_one_at_once() {
    let refused = Fails(Errno::CONNREFUSED, AT_ONCE);
    let (connected, network) =
        race(&[refused, refused, refused, Connects(AT_ONCE)], &FOUR, None).await;
    assert!(connected.is_ok());
    assert_eq!(*network.dials.lock().unwrap(), [AT_ONCE; 4]);
}

#[tokio::test]
async fn at_most_two_dials_are_open_and_each_leaves_time_for_the_next() {
    let (connected, network) = race(&[Never, Never, Never, Connects(AT_ONCE)], &FOUR, None).await;
    assert!(connected.is_ok());
    assert_eq!(*network.open.lock().unwrap(), (0, 2));
    let dials = network.dials.lock().unwrap();
    // The first makes way after a fourth of the deadline, the second after a third of its rest.
    assert_eq!(dials[1], ATTEMPT_DELAY);
    assert_eq!(dials[2], DEADLINE / 4);
    assert_eq!(
        dials[3],
        ATTEMPT_DELAY + DEADLINE.saturating_sub(ATTEMPT_DELAY) / 3
    );
}

#[tokio::test]
async fn without_a_second_permit_the_dials_do_not_overlap() {
    let (_, held) = one_permit(1);
    let permits = held.siblings().clone();
    let (connected, network) = race(&[Never, Connects(AT_ONCE)], &FOUR[..2], Some(permits)).await;
    assert!(connected.is_ok());
    assert_eq!(*network.dials.lock().unwrap(), [AT_ONCE, DEADLINE / 2]);
    assert_eq!(*network.open.lock().unwrap(), (0, 1));
}

#[tokio::test]
async fn without_a_second_socket_the_dials_do_not_overlap() {
    let limit = SocketLimit::new(0);
    let (connected, network) =
        race_within(&limit, &[Never, Connects(AT_ONCE)], &FOUR[..2], None).await;
    assert!(connected.is_ok());
    assert_eq!(*network.dials.lock().unwrap(), [AT_ONCE, DEADLINE / 2]);
    assert_eq!(*network.open.lock().unwrap(), (0, 1));
}

#[tokio::test]
async fn a_second_dial_counts_as_a_socket_until_the_race_is_over() {
    let limit = SocketLimit::new(1);
    let of_race = limit.clone();
    let script = [Never, Connects(Duration::from_secs(1))];
    let running =
        tokio::spawn(async move { race_within(&of_race, &script, &FOUR[..2], None).await });
    while limit.permits().0.available_permits() > 0 {
        // Lets the paused clock go on.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (connected, network) = running.await.unwrap();
    assert!(connected.is_ok());
    assert_eq!(*network.open.lock().unwrap(), (0, 2));
    assert_eq!(limit.permits().0.available_permits(), 1);
}

#[tokio::test]
async fn a_second_dial_holds_a_permit_of_the_origin_only_while_it_lasts() {
    let (watched, held) = one_permit(2);
    let permits = held.siblings().clone();
    let script = [
        Never,
        Fails(Errno::CONNREFUSED, Duration::from_secs(1)),
        Never,
    ];
    let running = tokio::spawn(async move { race(&script[..2], &FOUR[..2], Some(permits)).await });
    for left in [0, 1] {
        while watched.free() != left {
            // Lets the paused clock go on.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    running.abort();
    assert!(running.await.is_err_and(|error| error.is_cancelled()));
    assert_eq!(watched.free(), 1);
}

#[tokio::test]
async fn a_second_dial_without_a_descriptor_waits_for_the_first() {
    let lacking = Fails(Errno::MFILE, AT_ONCE);
    let (connected, network) = race(&[Never, lacking, Connects(AT_ONCE)], &FOUR[..2], None).await;
    assert!(connected.is_ok());
    assert_eq!(
        *network.dials.lock().unwrap(),
        [AT_ONCE, ATTEMPT_DELAY, DEADLINE / 2]
    );
    assert_eq!(
        network.order.lock().unwrap()[1..],
        ["127.0.0.2:1".parse().unwrap(); 2]
    );
}

#[tokio::test]
async fn a_shortage_ends_the_race_when_no_dial_is_left() {
    let lacking = Fails(Errno::MFILE, AT_ONCE);
    let (connected, _) = race(&[lacking], &FOUR, None).await;
    let error = connected.unwrap_err();
    assert!(
        matches!(error, RaceError::Shortage(Shortage::Descriptors)),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_last_failure_is_reported() {
    let refused = Fails(Errno::CONNREFUSED, AT_ONCE);
    let unreachable = Fails(Errno::HOSTUNREACH, AT_ONCE);
    let (connected, _) = race(&[refused, unreachable], &FOUR[..2], None).await;
    let Err(RaceError::Connect(address, error)) = connected else {
        panic!("{connected:?}")
    };
    assert_eq!(address.to_string(), FOUR[1]);
    assert_eq!(error.kind(), io::ErrorKind::HostUnreachable);
}

#[test]
fn families_take_turns_and_at_most_four_addresses_are_dialled() {
    let order = |addresses: &[&str]| {
        let addresses: Vec<_> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let order = interleaved(&addresses).into_iter();
        order.map(|address| address.to_string()).collect::<Vec<_>>()
    };
    let (six, four) = (
        ["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1"],
        ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"],
    );
    assert_eq!(
        order(&[six, four].concat()),
        [six[0], four[0], six[1], four[1]]
    );
    assert_eq!(
        order(&[&four[..1], &six].concat()),
        [four[0], six[0], six[1], six[2]]
    );
    assert_eq!(order(&four), four);
    assert_eq!(order(&six[..1]), six[..1]);
    assert_eq!(order(&FOUR.repeat(2)), FOUR);
}
