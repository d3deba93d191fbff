//! Runs the program as a process, with its database and log in one folder.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::{
    client::{Answer, Client, health},
    eventually,
    program_database::{self, Direct},
};

/// A running API process. Killed on drop.
pub(crate) struct Service {
    child: Child,
    pub(crate) addr: SocketAddr,
    log: PathBuf,
    /// Number of log lines written before this process started.
    earlier_lines: usize,
}

/// A command for the program, with the database of `folder` and its log there, a free port and no
/// Redis.
pub(crate) fn program(folder: &Path) -> Command {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("api.log"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_storm-api"));
    command
        .env_clear()
        .envs([("REDIS_URL", "none"), ("API_ADDR", "127.0.0.1:0")])
        .env("SHUTDOWN_DELAY", "0s")
        .env("DB_URL", program_database::url(folder))
        .current_dir(folder)
        .stderr(log.unwrap());
    command
}

impl Service {
    /// Starts the program and waits until its database is open.
    pub(crate) async fn start(folder: &TempDir) -> Self {
        Self::start_in(folder.path()).await
    }

    pub(crate) async fn start_in(folder: &Path) -> Self {
        let service = Self::spawn(program(folder), folder).await;
        service.is_open().await;
        service
    }

    /// Spawns a command from [`program`]. Returns once it listens; its database may still open.
    pub(crate) async fn spawn(mut command: Command, folder: &Path) -> Self {
        let log = folder.join("api.log");
        let earlier_lines = lines(&log).len();
        let child = command.spawn().unwrap();
        let mut addr = None;
        eventually("the start", || {
            let started = |line: &&Value| line["message"] == "starting";
            addr = lines(&log)
                .iter()
                .skip(earlier_lines)
                .find(started)
                .map(|line| line["addr"].as_str().unwrap().parse().unwrap());
            addr.is_some()
        })
        .await;
        Self {
            child,
            addr: addr.unwrap(),
            log,
            earlier_lines,
        }
    }

    /// Sends one request on a new connection.
    pub(crate) async fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut client = Client::connect(self.addr).await;
        client.send(request).await;
        client.answer().await
    }

    /// Waits until its database is open.
    pub(crate) async fn is_open(&self) {
        while health(self.addr).await.json()["database"] != "ok" {}
    }

    /// Waits for a log line whose message contains `message`.
    pub(crate) async fn says(&self, message: &str) -> Value {
        self.says_nth(message, 0).await
    }

    /// Waits for the `nth` such log line, from 0.
    pub(crate) async fn says_nth(&self, message: &str, nth: usize) -> Value {
        let mut said = None;
        eventually(message, || {
            let tells = |line: &Value| line["message"].as_str().unwrap().contains(message);
            said = lines(&self.log)
                .into_iter()
                .skip(self.earlier_lines)
                .filter(tells)
                .nth(nth);
            said.is_some()
        })
        .await;
        said.unwrap()
    }

    /// Limits the size of every file that it writes, which simulates a full disk.
    pub(crate) fn limit_files(&self, bytes: u64) {
        let pid = self.child.id().try_into().unwrap();
        let limit = Some((bytes, rlimit::INFINITY));
        rlimit::prlimit(pid, rlimit::Resource::FSIZE, limit, None).unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Limits the number of files that it may have open. Returns the limit before.
    pub(crate) fn limit_descriptors(&self, descriptors: u64) -> u64 {
        let pid = self.child.id().try_into().unwrap();
        let (mut soft, mut hard) = (0, 0);
        let before = Some((&mut soft, &mut hard));
        rlimit::prlimit(pid, rlimit::Resource::NOFILE, None, before).unwrap();
        let limit = Some((descriptors, hard));
        rlimit::prlimit(pid, rlimit::Resource::NOFILE, limit, None).unwrap();
        soft
    }

    /// The number of log lines of this process.
    pub(crate) fn log_lines(&self) -> usize {
        lines(&self.log).len() - self.earlier_lines
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends SIGTERM and waits for the exit.
    pub(crate) async fn stop(self) -> ExitStatus {
        self.signal("TERM");
        self.ended().await
    }

    /// Sends a signal by its name: `HUP`, `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for the exit.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        spawn_blocking(move || self.child.wait().unwrap())
            .await
            .unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Opens a second connection to the database of `folder`.
pub(crate) async fn database(folder: &Path) -> Direct {
    Direct::open(folder).await
}

/// Every complete line of a log. A line that is still being written is skipped.
pub(crate) fn lines(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// True if the process exited with `code` and was not killed by a signal.
pub(crate) fn exited_with(status: ExitStatus, code: i32) -> bool {
    status.signal().is_none() && status.code() == Some(code)
}
