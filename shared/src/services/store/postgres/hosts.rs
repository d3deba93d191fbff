//! The hosts of the database: which of them is the primary.
//!
//! After a failover, the old primary can come back and take writes again, which are lost. So of two
//! primaries the one with the higher timeline is taken, and none below the highest timeline that
//! this process has seen. That is asked for when a connection is opened, and then some times a
//! second, together with the begin of a transaction: a pooler can lead to another server meanwhile.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_postgres::Connect;
use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{
    Client, Config, Connection, Error as PostgresError, NoTls, Socket, tls::TlsStream,
};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::timeline::{self, Timeline};

/// How long a host may take until a connection can be used: with TLS, the login and the questions.
/// One that only accepts connections keeps nobody from the others.
const LOGIN: Duration = Duration::from_secs(5);

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
    /// Whether its timeline is the highest, and was not known before.
    is_new: bool,
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
            (Some(newest), Some(number)) => {
                self.judge("the database", newest.with(number)).map(drop)
            }
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
            // Most are standbys, which refuse. An old primary is in the log.
            if at != primary
                && let Ok(found) = self.find(host).await
                && found.is_new
            {
                self.primary.store(at, Ordering::Relaxed);
            }
        }
    }

    /// Compares a timeline with the highest one. Returns whether it is higher.
    fn judge(&self, name: &str, found: Timeline) -> Result<bool, String> {
        let mut seen = self.seen();
        let Some(newest) = seen.newest else {
            seen.newest = Some(found);
            return Ok(true);
        };
        if newest.replaces(found) {
            let problem = format!(
                "{name} is an old primary: its timeline is {}, and that of the primary {}; what it \
                 commits would be lost, so it is not used: make it a standby, or stop it",
                found.number, newest.number
            );
            if seen.logged.as_ref() != Some(&problem) {
                warn!("{problem}");
                seen.logged = Some(problem.clone());
            }
            return Err(problem);
        }
        if newest == found {
            return Ok(false);
        }
        info!(
            timeline = found.number,
            before = newest.number,
            "the database has another primary"
        );
        seen.newest = Some(found);
        Ok(true)
    }

    async fn connect(&self) -> Result<Connected, PostgresError> {
        let doubt = self.seen().doubts.open();
        let first = self.primary.load(Ordering::Relaxed);
        let mut best: Option<(usize, Found)> = None;
        let mut refused = None;
        for step in 0..self.all.len() {
            let at = (first + step) % self.all.len();
            match self.find(&self.all[at]).await {
                Ok(found) => {
                    // Of two primaries, the later one has passed only if its timeline is higher.
                    let is_better = best.as_ref().is_none_or(|(_, best)| found.replaces(best));
                    if is_better {
                        best = Some((at, found));
                    }
                }
                Err(why) => refused = Some(why),
            }
            if best.is_some() && doubt.is_none() {
                break;
            }
        }
        if let Some((at, found)) = best {
            self.primary.store(at, Ordering::Relaxed);
            let mut seen = self.seen();
            if let Some(doubt) = doubt {
                seen.doubts.settle(doubt);
            }
            seen.problem = None;
            return Ok((found.client, found.task.detach()));
        }
        match refused {
            Some(Refused::Failed(error)) => {
                self.seen().problem = None;
                Err(error)
            }
            Some(Refused::Problem(problem)) => {
                self.seen().problem = Some(problem);
                no_host().await
            }
            None => no_host().await,
        }
    }

    /// Connects to a host, if it is the primary.
    async fn find(&self, host: &Host) -> Result<Found, Refused> {
        let found = timeout(LOGIN, self.open(&host.config)).await;
        let found = found.map_err(|_| {
            let seconds = LOGIN.as_secs();
            Refused::Problem(format!("{} has not answered within {seconds} s", host.name))
        })?;
        let mut found = found.map_err(Refused::Failed)?;
        if let Some(timeline) = found.timeline {
            let judged = self.judge(&host.name, timeline);
            found.is_new = judged.map_err(Refused::Problem)?;
            if found.is_new {
                // The connections to the last primary are not used any more.
                self.seen().trusted_from = Instant::now();
            }
        }
        Ok(found)
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
            is_new: false,
        })
    }
}

impl Found {
    fn replaces(&self, other: &Self) -> bool {
        match (self.timeline, other.timeline) {
            (Some(this), Some(other)) => this.replaces(other),
            _ => false,
        }
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
