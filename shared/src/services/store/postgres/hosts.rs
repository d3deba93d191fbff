//! The hosts of the database: which of them is the primary.
//!
//! After a failover, the old primary can come back and take writes again, which are lost. So of two
//! primaries the one with the higher timeline is taken, and none below the highest timeline that
//! this process has seen. That is asked for when a connection is opened, and then some times a
//! second, together with the begin of a transaction: a pooler can lead to another server meanwhile.

use std::{
    cmp::Reverse,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_postgres::Connect;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    task::JoinHandle,
    time::{timeout, timeout_at},
};
use tokio_postgres::{
    Client, Config, Connection, Error as PostgresError, NoTls, Socket, error::SqlState,
    tls::TlsStream,
};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::timeline::{self, Timeline};

/// How long a host may take until a connection can be used: with TLS, the login and the questions.
/// One that only accepts connections keeps nobody from the others.
const LOGIN: Duration = Duration::from_secs(5);

/// How long the others may take once one has answered: they are asked at the same time.
const OTHERS: Duration = Duration::from_secs(2);

/// How often the timeline is asked for again.
const PERIOD: Duration = Duration::from_millis(100);

/// A client, and the task that serves it.
type Connected = (Client, JoinHandle<()>);

/// The hosts, in the order in which they are tried.
pub(super) struct Hosts {
    all: Vec<Host>,
    /// `None`: connections are not encrypted.
    tls: Option<MakeRustlsConnect>,
    /// The index of the last primary, which is tried first.
    primary: AtomicUsize,
    seen: Mutex<Seen>,
}

/// A server's address.
pub(super) struct Host {
    /// For the log.
    pub(super) name: String,
    /// How to connect to this host alone.
    pub(super) config: Config,
}

/// What this process has seen of them.
struct Seen {
    /// The highest timeline.
    newest: Option<Timeline>,
    /// When it was asked for last.
    asked: Instant,
    /// Connections that were opened before may lead to a server that is gone or was replaced.
    trusted_from: Instant,
    doubts: Doubts,
    /// Why the last connection could not be opened, if it was not an error of the client.
    problem: Option<String>,
    /// The old primary that is in the log already.
    logged: Option<String>,
}

/// Whether the next connection compares all hosts, and does not take the first primary.
struct Doubts {
    raised: u64,
    /// How many of them a comparison has followed.
    settled: u64,
}

impl Doubts {
    /// A process that starts knows nothing of the hosts.
    fn at_start() -> Self {
        Self {
            raised: 1,
            settled: 0,
        }
    }

    fn raise(&mut self) {
        self.raised += 1;
    }

    /// What a comparison that begins now settles; `None` if there is no doubt.
    fn open(&self) -> Option<u64> {
        (self.raised > self.settled).then_some(self.raised)
    }

    /// A comparison is over. A doubt that came meanwhile stays.
    fn settle(&mut self, open: u64) {
        self.settled = self.settled.max(open);
    }
}

/// A connection to a primary.
struct Found {
    client: Client,
    /// It does not end with the client while answers are missing.
    task: AbortOnDropHandle<()>,
    timeline: Option<Timeline>,
}

/// Why a host is not taken.
enum Refused {
    /// It can't be connected to, or is no primary.
    Failed(PostgresError),
    /// The same in our words.
    Problem(String),
}

impl Hosts {
    pub(super) fn new(all: Vec<Host>, tls: Option<MakeRustlsConnect>) -> Self {
        let now = Instant::now();
        Self {
            all,
            tls,
            primary: AtomicUsize::new(0),
            seen: Mutex::new(Seen {
                newest: None,
                asked: now,
                trusted_from: now,
                doubts: Doubts::at_start(),
                problem: None,
                logged: None,
            }),
        }
    }

    /// Whether a connection that was opened at `opened` may be used.
    pub(super) fn are_trusted_since(&self, opened: Instant) -> bool {
        opened >= self.seen().trusted_from
    }

    /// A connection that was opened at `opened` has failed. Others that lead to the same server
    /// are not tried one after the other: each could take a whole deadline.
    pub(super) fn distrust(&self, opened: Instant) {
        let mut seen = self.seen();
        if opened >= seen.trusted_from {
            seen.trusted_from = Instant::now();
            // Another host may have become the primary, while this one answers.
            seen.doubts.raise();
        }
    }

    /// SQL for the timeline, if the next transaction has to ask for it.
    pub(super) fn question(&self) -> Option<String> {
        let mut seen = self.seen();
        let newest = seen.newest?;
        if seen.asked.elapsed() < PERIOD {
            return None;
        }
        seen.asked = Instant::now();
        Some(timeline::of_transaction(newest.number))
    }

    /// Checks the timeline of a transaction. `None` if its server is a standby, which says so by
    /// itself.
    ///
    /// # Errors
    /// Its server was replaced.
    pub(super) fn check(&self, number: Option<u32>) -> Result<(), String> {
        let newest = self.seen().newest;
        match (newest, number) {
            (Some(newest), Some(number)) => self.judge("the database", newest.with(number)),
            _ => Ok(()),
        }
    }

    /// Why the last connection could not be opened, if it was not an error of the client.
    pub(super) fn problem(&self) -> Option<String> {
        self.seen().problem.clone()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks whether another host is the primary by now, and goes over to it. An old primary that
    /// still answers would take what is lost.
    ///
    /// It takes a connection attempt for each other host, and delays no other work.
    pub(super) async fn compare(&self) {
        let primary = self.primary.load(Ordering::Relaxed);
        for (at, host) in self.all.iter().enumerate() {
            if at == primary {
                continue;
            }
            // Most are standbys, which refuse.
            let Ok(Found {
                timeline: Some(timeline),
                ..
            }) = self.find(host).await
            else {
                continue;
            };
            // Not to one of another cluster, as that before an upgrade: each is newer than the
            // other.
            let replaces = |newest: Timeline| timeline.replaces(newest);
            if self.seen().newest.is_some_and(replaces) && self.judge(&host.name, timeline).is_ok()
            {
                self.primary.store(at, Ordering::Relaxed);
            }
        }
    }

    /// Compares a timeline with the highest one. If it is higher, the connections to the last
    /// primary are not used any more.
    fn judge(&self, name: &str, found: Timeline) -> Result<(), String> {
        let mut seen = self.seen();
        let Some(newest) = seen.newest else {
            seen.newest = Some(found);
            seen.trusted_from = Instant::now();
            return Ok(());
        };
        if newest.replaces(found) {
            let problem = format!(
                "{name} is an old primary: its timeline is {}, and that of the primary {}; what it \
                 commits would be lost, so it is not used: make it a standby, or stop it",
                found.number, newest.number
            );
            if seen.logged.as_ref() != Some(&problem) {
                warn!(problem, "an old primary is not used");
                seen.logged = Some(problem.clone());
            }
            return Err(problem);
        }
        if newest == found {
            return Ok(());
        }
        info!(
            timeline = found.number,
            before = newest.number,
            "the database has another primary"
        );
        seen.newest = Some(found);
        seen.trusted_from = Instant::now();
        Ok(())
    }

    async fn connect(&self) -> Result<Connected, PostgresError> {
        let doubt = self.seen().doubts.open();
        let first = self.primary.load(Ordering::Relaxed);
        let mut asked = Asked::default();
        if doubt.is_none() {
            asked.note(first, self.find(&self.all[first]).await);
        }
        if !asked.found.iter().any(|(_, found)| self.is_known(found)) {
            self.ask_all(&mut asked, doubt.is_none().then_some(first))
                .await;
            // In the order in which they are tried.
            let count = self.all.len();
            asked
                .found
                .sort_by_key(|(at, _)| (at + count - first) % count);
        }
        let problem = match self.choose(asked.found) {
            Ok(Some((at, found))) => {
                self.primary.store(at, Ordering::Relaxed);
                let mut seen = self.seen();
                if let Some(doubt) = doubt {
                    seen.doubts.settle(doubt);
                }
                seen.problem = None;
                return Ok((found.client, found.task.detach()));
            }
            Ok(None) => match asked.refused {
                Some(Refused::Failed(error)) => {
                    self.seen().problem = None;
                    return Err(error);
                }
                Some(Refused::Problem(problem)) => Some(problem),
                None => None,
            },
            Err(problem) => Some(problem),
        };
        self.seen().problem = problem;
        no_host().await
    }

    /// Asks the hosts, but for `except`, at the same time: some that hang must not keep anybody
    /// from the one that answers.
    async fn ask_all(&self, asked: &mut Asked, except: Option<usize>) {
        let others = (0..self.all.len()).filter(|at| except != Some(*at));
        let mut answers: FuturesUnordered<_> = others
            .map(|at| async move { (at, self.find(&self.all[at]).await) })
            .collect();
        let mut until = None;
        loop {
            let next = match until {
                None => answers.next().await,
                Some(until) => timeout_at(until, answers.next()).await.unwrap_or(None),
            };
            let Some((at, answer)) = next else { break };
            asked.note(at, answer);
            if asked.found.iter().any(|(_, found)| self.is_known(found)) {
                until.get_or_insert_with(|| tokio::time::Instant::now() + OTHERS);
            }
        }
    }

    /// The primary among those that take writes: of the known cluster, that with the highest
    /// timeline; of another one, the first, if there is none of the known one. `None` if none takes
    /// writes.
    ///
    /// # Errors
    /// All were replaced.
    fn choose(&self, mut found: Vec<(usize, Found)>) -> Result<Option<(usize, Found)>, String> {
        let timeline_of = |(_, found): &(usize, Found)| found.timeline;
        let cluster = match found.iter().find(|(_, found)| self.is_known(found)) {
            Some(first) => self.seen().newest.or(timeline_of(first)),
            None => found.first().and_then(timeline_of),
        };
        found.retain(|it| match (cluster, timeline_of(it)) {
            (Some(cluster), Some(timeline)) => cluster.is_of_cluster(timeline),
            _ => true,
        });
        // Stable: of equal ones, the first stays the first.
        found.sort_by_key(|it| Reverse(timeline_of(it).map(|it| it.number)));
        let mut judged = found.into_iter().map(|(at, found)| {
            let timeline = found.timeline;
            let judged = timeline.map_or(Ok(()), |it| self.judge(&self.all[at].name, it));
            judged.map(|()| (at, found))
        });
        let primary = judged.next().transpose();
        // Of the others, old primaries are logged.
        judged.for_each(drop);
        primary
    }

    /// Whether a server is of the cluster that this process has seen, as far as it says so.
    fn is_known(&self, found: &Found) -> bool {
        match (self.seen().newest, found.timeline) {
            (Some(known), Some(timeline)) => known.is_of_cluster(timeline),
            _ => true,
        }
    }

    /// Connects to a host, if it takes writes.
    async fn find(&self, host: &Host) -> Result<Found, Refused> {
        let found = timeout(LOGIN, self.open(&host.config)).await;
        let found = found.map_err(|_| {
            let seconds = LOGIN.as_secs();
            Refused::Problem(format!("{} has not answered within {seconds} s", host.name))
        })?;
        found.map_err(Refused::Failed)
    }

    async fn open(&self, config: &Config) -> Result<Found, PostgresError> {
        let (client, task) = match &self.tls {
            None => serve(config.connect(NoTls).await?),
            Some(tls) => serve(config.connect(tls.clone()).await?),
        };
        let task = AbortOnDropHandle::new(task);
        let timeline = Timeline::of(&client).await?;
        Ok(Found {
            client,
            task,
            timeline,
        })
    }
}

/// What the hosts have answered.
#[derive(Default)]
struct Asked {
    found: Vec<(usize, Found)>,
    refused: Option<Refused>,
}

impl Asked {
    fn note(&mut self, at: usize, answer: Result<Found, Refused>) {
        match answer {
            Ok(found) => self.found.push((at, found)),
            // A primary without room is waited for. That another host is a standby says less.
            Err(_) if self.refused.as_ref().is_some_and(Refused::is_of_limit) => {}
            Err(why) => self.refused = Some(why),
        }
    }
}

impl Refused {
    fn is_of_limit(&self) -> bool {
        let limit = Some(&SqlState::TOO_MANY_CONNECTIONS);
        matches!(self, Self::Failed(error) if error.code() == limit)
    }
}

/// The pool's way to the hosts.
pub(super) struct Connector(pub(super) Arc<Hosts>);

impl Connect for Connector {
    fn connect(
        &self,
        _: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<Connected, PostgresError>> + Send + '_>> {
        Box::pin(self.0.connect())
    }
}

/// Starts the task of a connection. Its client hears of its end.
fn serve<T>((client, connection): (Client, Connection<Socket, T>)) -> Connected
where
    T: TlsStream + Unpin + Send + 'static,
{
    let task = tokio::spawn(async move {
        let _ = connection.await;
    });
    (client, task)
}

/// The client's error for an address without a host: the pool takes only errors of the client.
async fn no_host() -> Result<Connected, PostgresError> {
    Config::new().connect(NoTls).await.map(serve)
}

#[cfg(test)]
mod tests {
    use super::Doubts;

    #[test]
    fn a_doubt_that_comes_during_a_comparison_is_not_settled_by_it() {
        let mut doubts = Doubts::at_start();
        let open = doubts.open().expect("nothing is known yet");
        doubts.raise();
        doubts.settle(open);
        let open = doubts.open().expect("it came meanwhile");
        doubts.settle(open);
        assert_eq!(doubts.open(), None);
        // One that took longer than a later one.
        doubts.settle(open - 1);
        assert_eq!(doubts.open(), None);
    }
}
