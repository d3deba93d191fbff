//! The program as a process of its own, with a folder for its database and its log.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
};

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::{
    client::{Answer, Client, health},
    eventually,
};

/// A running API; killed when it is dropped.
pub(crate) struct Service {
    child: Child,
    pub(crate) addr: SocketAddr,
    log: PathBuf,
    /// Lines of the log that were there before it.
    others: usize,
}

/// The program with its database and its log in `folder`, on a free port, without Redis.
pub(crate) fn program(folder: &Path) -> Command {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("api.log"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_storm-api"));
    command
        .env_clear()
        .envs([("REDIS_URL", "none"), ("API_ADDR", "127.0.0.1:0")])
        .env("DB_URL", "sqlite:storm.db")
        .current_dir(folder)
        .stderr(log.unwrap());
    command
}

impl Service {
    /// Starts one, and returns when it has opened its database, which may take long on a busy machine.
    pub(crate) async fn start(folder: &TempDir) -> Self {
        let service = Self::spawn(program(folder.path()), folder.path()).await;
        service.is_open().await;
        service
    }

    /// From a command that [`program`] gave. It has an address, and may not answer there yet.
    pub(crate) async fn spawn(mut command: Command, folder: &Path) -> Self {
        let log = folder.join("api.log");
        let others = lines(&log).len();
        let child = command.spawn().unwrap();
        let mut addr = None;
        eventually("the start", || {
            let started = |line: &&Value| line["message"] == "starting";
            addr = lines(&log)
                .iter()
                .skip(others)
                .find(started)
                .map(|line| line["addr"].as_str().unwrap().parse().unwrap());
            addr.is_some()
        })
        .await;
        Self {
            child,
            addr: addr.unwrap(),
            log,
            others,
        }
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut client = Client::connect(self.addr).await;
        client.send(request).await;
        client.answer().await
    }

    /// Returns when it has opened its database.
    pub(crate) async fn is_open(&self) {
        while health(self.addr).await.json()["database"] != "ok" {}
    }

    /// Waits for a line of the log with that text in its message.
    pub(crate) async fn says(&self, message: &str) -> Value {
        let mut said = None;
        eventually(message, || {
            let tells = |line: &Value| line["message"].as_str().unwrap().contains(message);
            said = lines(&self.log).into_iter().skip(self.others).find(tells);
            said.is_some()
        })
        .await;
        said.unwrap()
    }

    /// Bounds the size of every file that it writes: what a full disk does, as far as it can tell.
    pub(crate) fn limit_files(&self, bytes: u64) {
        let pid = self.child.id().try_into().unwrap();
        let limit = Some((bytes, rlimit::INFINITY));
        rlimit::prlimit(pid, rlimit::Resource::FSIZE, limit, None).unwrap();
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Tells it to end, and waits for that.
    pub(crate) async fn stop(self) -> ExitStatus {
        let told = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        assert!(told.unwrap().success());
        self.ended().await
    }

    /// Waits for its end.
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

/// A connection of the test's own to the database in `folder`.
pub(crate) fn database(folder: &Path) -> Connection {
    Connection::open(folder.join("storm.db")).unwrap()
}

/// Every whole line of a log; one may be half-written.
pub(crate) fn lines(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Exited by itself with that status, and was not killed.
pub(crate) fn exited_with(status: ExitStatus, code: i32) -> bool {
    status.signal().is_none() && status.code() == Some(code)
}
