//! Workers as processes, which can be killed, frozen and told to end.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A worker's process on a database, without Redis. It is killed when it is dropped.
pub(crate) struct WorkerProcess {
    child: Child,
    addr: String,
}

impl WorkerProcess {
    /// The program itself.
    pub(crate) fn start(folder: &Path, overrides: &[(&str, &str)]) -> Self {
        Self::run(env!("CARGO_BIN_EXE_storm-worker").into(), folder, overrides)
    }

    /// The one that `http://poison.example` kills.
    pub(crate) fn start_mortal(folder: &Path, overrides: &[(&str, &str)]) -> Self {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().unwrap().parent().unwrap();
        Self::run(profile.join("examples/mortal_worker"), folder, overrides)
    }

    fn run(program: PathBuf, folder: &Path, overrides: &[(&str, &str)]) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = free.local_addr().unwrap().to_string();
        drop(free);
        let child = Command::new(program)
            .env_clear()
            .env(
                "DB_URL",
                format!("sqlite:{}", folder.join("storm.db").display()),
            )
            .env("WORKER_ADDR", &addr)
            .envs([
                ("REDIS_URL", "none"),
                ("CALLBACK_ALLOW", "127.0.0.1/32"),
                ("LOG", "warn"),
            ])
            .envs(overrides.iter().copied())
            .stdin(Stdio::null())
            .spawn()
            .expect("the examples are built by a plain `cargo test`");
        Self { child, addr }
    }

    /// Sends it a signal: `KILL`, `STOP`, `CONT`, `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Its status, once it has ended.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What `storm-worker healthcheck` ends with.
    pub(crate) async fn healthcheck(&self) -> Option<i32> {
        let mut check = Command::new(env!("CARGO_BIN_EXE_storm-worker"));
        check.env_clear().env("WORKER_ADDR", &self.addr);
        let check = move || check.arg("healthcheck").status().unwrap().code();
        tokio::task::spawn_blocking(check).await.unwrap()
    }

    /// The answer to a GET; nothing while it doesn't listen.
    pub(crate) async fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.addr).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
