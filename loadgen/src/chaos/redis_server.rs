//! The run's own Redis server, with a direct connection that bypasses the proxy.

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, cmd};
use tokio::time::{Instant, sleep};

use super::process::{Process, ProcessSpec};

/// How long it may take to start and to respond on a machine under load.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How often its readiness is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A `redis-server` with an append-only file, so that a new process continues with the same data.
#[derive(Debug)]
pub(super) struct RedisServer {
    tether: PathBuf,
    program: PathBuf,
    addr: SocketAddr,
    folder: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl RedisServer {
    /// A server at `addr` that is not running yet. Its data and its log are in `folder`, under
    /// `name`.
    pub(super) fn new(
        tether: &Path,
        program: &Path,
        addr: SocketAddr,
        folder: &Path,
        name: &str,
    ) -> Self {
        Self {
            tether: tether.to_owned(),
            program: program.to_owned(),
            addr,
            folder: folder.join(name),
            // Beside the data folder, which `remove_data` deletes.
            log: folder.join(format!("{name}.log")),
            process: None,
        }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts it with its existing data and waits until it responds.
    pub(super) async fn start(&mut self) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        let port = self.addr.port().to_string();
        let folder = self.folder.as_os_str();
        let arguments = ["--bind", "127.0.0.1", "--port", &port, "--save", ""];
        let kept = ["--appendonly", "yes", "--appendfsync", "everysec"];
        // There is one replica: its sync need not wait for others.
        let replicated = [
            "--repl-diskless-sync-delay",
            "0",
            "--repl-backlog-size",
            "16kb",
        ];
        let arguments: Vec<_> = arguments
            .into_iter()
            .chain(kept)
            .chain(replicated)
            .map(OsStr::new)
            .chain([OsStr::new("--dir"), folder])
            .collect();
        self.process = Some(Process::start(&ProcessSpec {
            tether: &self.tether,
            program: &self.program,
            arguments: &arguments,
            // Redis refuses to start if the environment names a locale that isn't installed.
            environment: &[("LC_ALL", "C".to_owned())],
            log: &self.log,
        })?);
        self.wait_until_ready().await
    }

    /// Sends SIGKILL.
    pub(super) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Removes its data. It must not be running.
    pub(super) fn remove_data(&self) -> Result<()> {
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("can't remove {}", self.folder.display()))
    }

    pub(super) async fn flush(&self) -> Result<()> {
        self.query(cmd("FLUSHALL")).await
    }

    /// Makes it a read-only replica of `master`, or a master again.
    pub(super) async fn replicate(&self, master: Option<SocketAddr>) -> Result<()> {
        let mut command = cmd("REPLICAOF");
        match master {
            Some(master) => command.arg(master.ip().to_string()).arg(master.port()),
            None => command.arg("NO").arg("ONE"),
        };
        self.query(command).await
    }

    /// `used_memory`, in bytes.
    pub(super) async fn memory(&self) -> Result<u64> {
        let info = self.info("memory").await?;
        let memory = field(&info, "used_memory:").and_then(|bytes| bytes.parse().ok());
        memory.context("Redis' INFO has no valid used_memory")
    }

    /// How often it has executed each of the commands `names`, which are in lower case.
    pub(super) async fn executed<const N: usize>(&self, names: [&str; N]) -> Result<[u64; N]> {
        let info = self.info("commandstats").await?;
        Ok(names.map(|name| {
            let stats = field(&info, &format!("cmdstat_{name}:calls=")).unwrap_or_default();
            let calls = stats.split(',').next().and_then(|calls| calls.parse().ok());
            calls.unwrap_or_default()
        }))
    }

    async fn info(&self, section: &str) -> Result<String> {
        let mut info = cmd("INFO");
        info.arg(section);
        self.query(info).await
    }

    /// Entries in the stream `name`.
    pub(super) async fn entries(&self, name: &str) -> Result<u64> {
        let mut length = cmd("XLEN");
        length.arg(name);
        self.query(length).await
    }

    /// A message with the exit status, if it exited without being killed.
    pub(super) fn unexpected_exit(&mut self) -> Result<Option<String>> {
        let Some(process) = &mut self.process else {
            return Ok(None);
        };
        let ended = process.ended()?;
        Ok(ended.map(|status| format!("Redis exited by itself: {status}")))
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(died) = self.unexpected_exit()? {
                bail!("{died}; see {}", self.log.display());
            }
            match self.query::<String>(cmd("PING")).await {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > TIMEOUT => {
                    return Err(error.context("Redis is not ready"));
                }
                Err(_) => sleep(POLL_INTERVAL).await,
            }
        }
    }

    async fn query<T: FromRedisValue>(&self, question: Cmd) -> Result<T> {
        // A new connection per query, because the server is killed between queries.
        let client = Client::open(format!("redis://{}", self.addr))?;
        let limits = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&limits)
            .await?;
        Ok(question.query_async(&mut connection).await?)
    }
}

/// What follows `prefix` on a line of `info`.
fn field<'a>(info: &'a str, prefix: &str) -> Option<&'a str> {
    let mut lines = info.lines().map(str::trim);
    lines.find_map(|line| line.strip_prefix(prefix))
}
