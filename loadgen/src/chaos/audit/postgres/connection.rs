//! The auditor's connection to the primary, which is opened again when it was lost.

use std::{fmt, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{Instant, sleep},
};
use tokio_postgres::{Client, Config, Error, NoTls};
use tokio_util::task::AbortOnDropHandle;

/// How long a server may be away, on a machine under load.
const TIMEOUT: Duration = Duration::from_mins(1);

const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Where and as whom to log in.
#[derive(Clone, Debug)]
pub(in crate::chaos) struct Login {
    pub(in crate::chaos) addr: SocketAddr,
    /// The role. It needs no password.
    pub(in crate::chaos) role: &'static str,
    pub(in crate::chaos) database: String,
}

impl Login {
    /// Opens a connection, which is closed when both parts are dropped.
    pub(in crate::chaos) async fn open(&self) -> Result<(Client, AbortOnDropHandle<()>), Error> {
        let mut config = Config::new();
        config
            .host(self.addr.ip().to_string())
            .port(self.addr.port())
            .user(self.role)
            .dbname(&self.database)
            .connect_timeout(TIMEOUT);
        let (client, connection) = config.connect(NoTls).await?;
        let driving = tokio::spawn(async move {
            let _ = connection.await; // the client sees its end
        });
        Ok((client, AbortOnDropHandle::new(driving)))
    }
}

impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.database)
    }
}

/// A connection that is used by one at a time.
#[derive(Debug)]
pub(super) struct Connection {
    held: Mutex<Held>,
}

/// The connection, for one user.
#[derive(Debug)]
pub(super) struct Held {
    login: Login,
    open: Option<(Client, AbortOnDropHandle<()>)>,
}

impl Connection {
    pub(super) fn new(login: Login) -> Self {
        Self {
            held: Mutex::new(Held { login, open: None }),
        }
    }

    /// Leads to another server from now on.
    pub(super) async fn redirect(&self, login: Login) {
        *self.hold().await = Held { login, open: None };
    }

    pub(super) async fn hold(&self) -> MutexGuard<'_, Held> {
        self.held.lock().await
    }

    /// Reads, and once more on a new connection if this one was lost. What is done must be safe to
    /// repeat.
    pub(super) async fn read<T>(&self, read: impl AsyncFn(&Client) -> Result<T>) -> Result<T> {
        let start = Instant::now();
        loop {
            // Not held in between: another server may be the primary soon.
            let answer = self.hold().await.read(&read).await;
            match answer {
                Err(error) if is_lost(&error) && start.elapsed() < TIMEOUT => {}
                answer => return answer,
            }
            sleep(RETRY_INTERVAL).await;
        }
    }
}

impl Held {
    /// Reads once, on a new connection if the last one was lost.
    pub(super) async fn read<T>(&mut self, read: impl AsyncFn(&Client) -> Result<T>) -> Result<T> {
        let (client, _) = match &mut self.open {
            Some(open) if !open.0.is_closed() => open,
            closed => {
                let open = self.login.open().await;
                let open = open.with_context(|| format!("can't log in at {}", self.login))?;
                closed.insert(open)
            }
        };
        let answer = read(client).await;
        match answer {
            Ok(answer) => Ok(answer),
            Err(error) => {
                if is_lost(&error) {
                    self.open = None;
                }
                bail!(error.context("can't read the database"))
            }
        }
    }
}

/// Whether this is the end of a connection, or of the server, and no answer to a statement.
fn is_lost(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let Some(error) = cause.downcast_ref::<Error>() else {
            return false;
        };
        // Classes 57P0x and 08: shut down, crashed, not there yet.
        error
            .code()
            .is_none_or(|code| code.code().starts_with("57P") || code.code().starts_with("08"))
    })
}
