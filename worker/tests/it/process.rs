//! Worker processes that tests can kill, suspend and stop with SIGTERM.

use std::{
    fs::{self, DirEntry},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::program_database;

/// A worker process on a database, without Redis. It is killed on drop.
pub(crate) struct WorkerProcess {
    child: Child,
    addr: String,
    /// The lines of its log so far.
    lines: Arc<Mutex<Vec<String>>>,
}

impl WorkerProcess {
    /// Starts `storm-worker` and waits until it listens.
    pub(crate) fn start(folder: &Path, overrides: &[(&str, &str)]) -> Self {
        Self::run(env!("CARGO_BIN_EXE_storm-worker").into(), folder, overrides)
    }

    /// Starts the program at `TEST_API` beside the workers, which is a process like theirs.
    #[cfg(any(feature = "postgres", feature = "traces"))]
    pub(crate) fn start_api(folder: &Path, overrides: &[(&str, &str)]) -> Self {
        let program = std::env::var_os("TEST_API").expect(
            "TEST_API is the path of a storm-api that was built with the same features: \
             scripts/test.sh builds it",
        );
        let own = [("API_ADDR", "127.0.0.1:0"), ("SHUTDOWN_DELAY", "0s")];
        let overrides: Vec<_> = own.iter().chain(overrides).copied().collect();
        Self::run(program.into(), folder, &overrides)
    }

    /// Starts `storm-worker` with at most this many file descriptors.
    pub(crate) fn start_with_descriptors(
        most: u64,
        folder: &Path,
        overrides: &[(&str, &str)],
    ) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {most} && exec \"$0\"")]);
        shell.arg(env!("CARGO_BIN_EXE_storm-worker"));
        Self::spawn(shell, folder, overrides)
    }

    /// Starts the example worker that `http://poison.example` kills.
    pub(crate) fn start_mortal(folder: &Path, overrides: &[(&str, &str)]) -> Self {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().unwrap().parent().unwrap();
        Self::run(profile.join("examples/mortal_worker"), folder, overrides)
    }

    fn run(program: PathBuf, folder: &Path, overrides: &[(&str, &str)]) -> Self {
        Self::spawn(Command::new(program), folder, overrides)
    }

    /// The process binds port 0 and logs the port. A port picked beforehand could be taken by then.
    fn spawn(mut command: Command, folder: &Path, overrides: &[(&str, &str)]) -> Self {
        let mut child = command
            .env_clear()
            .env("DB_URL", program_database::url(folder))
            .envs([
                ("WORKER_ADDR", "127.0.0.1:0"),
                ("REDIS_URL", "none"),
                ("CALLBACK_ALLOW", "127.0.0.1/32"),
                ("LOG", "info"),
            ])
            .envs(overrides.iter().copied())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the examples are built by a plain `cargo test`");
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let logged = Arc::new(Mutex::new(Vec::new()));
        let log = logged.clone();
        let mut lines = lines.map_while(Result::ok).inspect(move |line| {
            if !line.contains(r#""level":"INFO""#) {
                eprintln!("{line}");
            }
            log.lock().unwrap().push(line.clone());
        });
        let addr = lines.find_map(|line| {
            let line: Value = serde_json::from_str(&line).ok()?;
            Some(line["addr"].as_str()?.to_owned())
        });
        // Keep reading: a full pipe would block the process.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            addr: addr.expect("the worker logs its address"),
            lines: logged,
        }
    }

    /// Limits the number of files that it may have open from now on.
    pub(crate) fn limit_descriptors(&self, descriptors: u64) {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};

        let limit = Rlimit {
            current: Some(descriptors),
            maximum: Some(descriptors),
        };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Nofile, limit).unwrap();
    }

    /// The address at which it listens.
    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }

    /// Sends a signal by its name: `KILL`, `CONT`, `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Suspends the process with SIGSTOP. On return, every thread is stopped.
    pub(crate) async fn freeze(&self) {
        self.signal("STOP");
        let tasks = format!("/proc/{}/task", self.child.id());
        // kill(2) returns before the threads stop: wait for state T (proc(5)) of each of them.
        let is_stopped = |task: DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().unwrap().starts_with('T')
        };
        while !fs::read_dir(&tasks).unwrap().flatten().all(is_stopped) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for the exit status.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for a log line that contains `text`.
    pub(crate) async fn logs(&self, text: &str) {
        let matches = |line: &String| line.contains(text);
        while !self.lines.lock().unwrap().iter().any(matches) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The exit status of `storm-worker healthcheck`.
    pub(crate) async fn healthcheck(&self) -> Option<i32> {
        let mut check = Command::new(env!("CARGO_BIN_EXE_storm-worker"));
        check.env_clear().env("WORKER_ADDR", &self.addr);
        let check = move || check.arg("healthcheck").status().unwrap().code();
        tokio::task::spawn_blocking(check).await.unwrap()
    }

    /// Polls until its health check passes.
    pub(crate) async fn until_healthy(&self) {
        while self.healthcheck().await != Some(0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Polls `path` until the answer contains `part`.
    pub(crate) async fn until_shown(&self, path: &str, part: &str) {
        while !self.get(path).await.unwrap().contains(part) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The response to a GET; `None` if it does not listen.
    pub(crate) async fn get(&self, path: &str) -> Option<String> {
        self.ask("GET", path).await
    }

    /// The response to a request without a body; `None` if it does not listen.
    pub(crate) async fn ask(&self, method: &str, path: &str) -> Option<String> {
        self.send(method, path, "").await
    }

    /// The same, with a `body` of JSON.
    pub(crate) async fn send(&self, method: &str, path: &str, body: &str) -> Option<String> {
        self.send_with("", method, path, body).await
    }

    /// The same, with more lines of the head, each with its end.
    pub(crate) async fn send_with(
        &self,
        lines: &str,
        method: &str,
        path: &str,
        body: &str,
    ) -> Option<String> {
        let mut stream = TcpStream::connect(&self.addr).await.ok()?;
        let about_body = match body.len() {
            0 => String::new(),
            length => {
                format!("content-type: application/json\r\ncontent-length: {length}\r\n")
            }
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{about_body}{lines}\r\n{body}"
        );
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
