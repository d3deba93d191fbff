//! Dials the addresses of one name: Happy Eyeballs (RFC 8305) with at most two sockets.

use std::{
    collections::VecDeque, future::poll_fn, io, net::SocketAddr, sync::Arc, task::Poll,
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use thiserror::Error;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until},
};

use super::{
    network::Connect,
    permits::{ConnectionPermit, TenantPermits},
    shortage::Shortage,
    socket_limit::{SocketLimit, SocketPermit},
};

/// The most addresses of one name to dial.
const MAX_DIALLED: usize = 4;
/// The most of them at a time.
const MAX_OPEN: usize = 2;
/// The next address is dialled after this time without a connection: the Connection Attempt Delay
/// of RFC 8305, section 8.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The dials of one attempt.
pub(super) struct Race {
    pub(super) sockets: Arc<dyn Connect>,
    /// Bounds the open sockets. The attempt holds a permit for one.
    pub(super) limit: SocketLimit,
    /// When the caller times out. An address that may not be dialled beside another gets an equal
    /// share of the time left, so that a silent one leaves time for the next.
    pub(super) deadline: Instant,
    /// The permits of the origin, if they are limited. The attempt holds one, for its first dial;
    /// a second dial beside it needs another one.
    pub(super) permits: Option<TenantPermits>,
}

/// Why no address could be connected to.
#[derive(Debug, Error)]
pub(super) enum RaceError {
    /// The last failure, and its address.
    #[error("{0}: {1}")]
    Connect(SocketAddr, io::Error),
    #[error("{0}")]
    Shortage(#[source] Shortage),
}

/// A dial under way.
struct Dial {
    address: SocketAddr,
    connecting: BoxFuture<'static, io::Result<TcpStream>>,
    /// The end of its share: then it makes way for the next address.
    until: Instant,
}

/// What a second dial beside the first one needs.
struct SecondDial {
    _socket: SocketPermit,
    /// If the origin's permits are limited.
    _connection: Option<ConnectionPermit>,
}

/// The state of a race.
struct RaceState<'a> {
    race: &'a Race,
    left: VecDeque<SocketAddr>,
    /// The oldest first.
    open: Vec<Dial>,
    /// The permits of the second dial. After `open`: they are free once its socket is closed.
    second: Option<SecondDial>,
    /// When a second dial is tried next.
    next_try: Instant,
    /// Whether a second dial has met a shortage of ours: there is no other one then.
    sequential: bool,
}

impl Race {
    /// The first connection to one of `addresses`, of which there is at least one. The other dials
    /// are dropped, which closes their sockets.
    pub(super) async fn run(self, addresses: &[SocketAddr]) -> Result<TcpStream, RaceError> {
        let mut state = RaceState {
            race: &self,
            left: interleaved(addresses),
            open: Vec::with_capacity(MAX_OPEN),
            second: None,
            next_try: Instant::now(),
            sequential: false,
        };
        state.dial_next();
        loop {
            let wake = state.wake();
            let (address, connected) = tokio::select! {
                done = first_done(&mut state.open) => done,
                () = sleep_until(wake), if !state.left.is_empty() => {
                    state.make_way();
                    continue;
                }
            };
            let error = match connected {
                Ok(stream) => {
                    // A request is one small write, which Nagle's algorithm would only delay.
                    let set = stream.set_nodelay(true);
                    return set
                        .map(|()| stream)
                        .map_err(|error| RaceError::Connect(address, error));
                }
                Err(error) => error,
            };
            match Shortage::of_connect(&error, address) {
                Some(shortage) if state.open.is_empty() => {
                    return Err(RaceError::Shortage(shortage));
                }
                // What we lack says nothing about the address: it is dialled after the other one.
                Some(_) => state.postpone(address),
                None => state.dial_next(),
            }
            if state.open.is_empty() {
                return Err(RaceError::Connect(address, error));
            }
        }
    }
}

impl Race {
    fn permits_for_second(&self) -> Option<SecondDial> {
        let connection = match &self.permits {
            Some(permits) => Some(permits.try_acquire()?),
            None => None,
        };
        Some(SecondDial {
            _socket: self.limit.try_acquire()?,
            _connection: connection,
        })
    }
}

impl RaceState<'_> {
    /// When to see about the next address.
    fn wake(&self) -> Instant {
        let until = self.open.first().map_or(self.next_try, |dial| dial.until);
        if self.open.len() < MAX_OPEN {
            until.min(self.next_try)
        } else {
            until
        }
    }

    /// Begins the next dial, beside the one under way if it may, or in its place if its share is
    /// over.
    fn make_way(&mut self) {
        let now = Instant::now();
        if self.open.len() < MAX_OPEN && now >= self.next_try && self.may_overlap() {
            self.dial_next();
        } else if self.open.first().is_some_and(|dial| dial.until <= now) {
            self.open.remove(0);
            self.dial_next();
        } else {
            self.next_try = now + ATTEMPT_DELAY;
        }
    }

    fn may_overlap(&mut self) -> bool {
        if self.sequential {
            return false;
        }
        if self.second.is_none() {
            self.second = self.race.permits_for_second();
        }
        self.second.is_some()
    }

    /// Dials the next address, if there is one left.
    fn dial_next(&mut self) {
        let now = Instant::now();
        if let Some(address) = self.left.pop_front() {
            let shares = u32::try_from(self.left.len() + 1).unwrap_or(u32::MAX);
            self.open.push(Dial {
                address,
                connecting: self.race.sockets.connect(address),
                until: now + self.race.deadline.saturating_duration_since(now) / shares,
            });
            // A short deadline leaves less time before the next one.
            self.next_try =
                now + ATTEMPT_DELAY.min(self.open[0].until.saturating_duration_since(now));
        } else if self.open.len() < MAX_OPEN {
            self.second = None;
        }
    }

    /// Dials `address` only in the place of the dial under way.
    fn postpone(&mut self, address: SocketAddr) {
        self.left.push_front(address);
        self.second = None;
        self.sequential = true;
    }
}

/// The first dial that is over. Cancel-safe.
async fn first_done(open: &mut Vec<Dial>) -> (SocketAddr, io::Result<TcpStream>) {
    poll_fn(|cx| {
        for index in 0..open.len() {
            if let Poll::Ready(connected) = open[index].connecting.poll_unpin(cx) {
                return Poll::Ready((open.remove(index).address, connected));
            }
        }
        Poll::Pending
    })
    .await
}

/// The addresses to dial, with the two families in turns (RFC 8305, section 4): one family may be
/// out of order as a whole.
fn interleaved(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .iter()
        .copied()
        .partition(|address| address.is_ipv4() == first_is_v4);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut order = VecDeque::with_capacity(MAX_DIALLED);
    while order.len() < MAX_DIALLED {
        let turn = first.next().into_iter().chain(second.next());
        let before = order.len();
        order.extend(turn);
        if order.len() == before {
            break;
        }
    }
    order.truncate(MAX_DIALLED);
    order
}

#[cfg(test)]
mod tests;
