//! The api or a worker of a run: a process that is killed and restarted many times.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::process::{Process, ProcessSpec};

/// How long a service may take to start on a machine under load.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How often readiness is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(2);

/// The paths that a service needs.
#[derive(Clone, Debug)]
pub(super) struct ServicePaths {
    /// The `storm-loadgen` binary, which tethers children to this process.
    pub(super) tether: PathBuf,
    /// The folder of the services' binaries.
    pub(super) bin: PathBuf,
    /// The folder of the logs.
    pub(super) folder: PathBuf,
}

/// One service of the stack.
#[derive(Debug)]
pub(super) struct Service {
    name: String,
    place: ServicePaths,
    program: &'static str,
    addr: SocketAddr,
    settings: Vec<(&'static str, String)>,
    process: Option<Process>,
}

impl Service {
    /// A service that is not running yet and will listen on `addr`.
    pub(super) fn new(
        name: &str,
        program: &'static str,
        addr: SocketAddr,
        place: &ServicePaths,
        settings: Vec<(&'static str, String)>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            place: place.clone(),
            program,
            addr,
            settings,
            process: None,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Starts it and waits until it responds.
    pub(super) async fn start(&mut self) -> Result<()> {
        let program = self.place.bin.join(self.program);
        let process = Process::start(&ProcessSpec {
            tether: &self.place.tether,
            program: &program,
            arguments: &[],
            environment: &self.settings,
            log: &self.log(),
        })?;
        self.process = Some(process);
        self.wait_until_ready().await
    }

    /// Sends SIGKILL.
    pub(super) fn kill(&mut self) {
        // Taken out, so that `unexpected_exit` does not report this death.
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Sends SIGTERM. It must exit with status 0 within `patience`.
    pub(super) async fn stop(&mut self, patience: Duration) -> Result<()> {
        let name = self.name.clone();
        // Taken out, as in `kill`. If it does not exit in time, dropping it kills it.
        let mut process = self.process.take().with_context(|| not_running(&name))?;
        process.terminate()?;
        let Some(status) = process.end_by(Instant::now() + patience).await? else {
            bail!("{name} did not exit within {patience:?} after SIGTERM");
        };
        ensure!(
            status.success(),
            "{name} did not shut down cleanly after SIGTERM: {status}"
        );
        Ok(())
    }

    /// What it says of its health; `None` without an answer in time.
    pub(super) async fn health(&self) -> Option<Value> {
        let answer = ask(self.addr, "/healthz").await?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }

    /// Whether its log shows one of `secrets`.
    pub(super) fn shows(&self, secrets: &[String]) -> Result<bool> {
        let log = fs::read(self.log())?;
        let log = String::from_utf8_lossy(&log);
        Ok(secrets.iter().any(|secret| log.contains(secret)))
    }

    /// The running process.
    pub(super) fn process(&mut self) -> Result<&mut Process> {
        let name = &self.name;
        self.process.as_mut().with_context(|| not_running(name))
    }

    /// Resident memory in bytes; 0 if it is not running.
    pub(super) fn resident(&self) -> u64 {
        self.process.as_ref().map_or(0, Process::resident)
    }

    /// A message with the exit status, if it exited without a signal from this run.
    pub(super) fn unexpected_exit(&mut self) -> Result<Option<String>> {
        let Some(process) = &mut self.process else {
            return Ok(None);
        };
        let ended = process.ended()?;
        let text = |status| {
            format!(
                "{} exited by itself: {status}; see {}",
                self.name,
                self.log().display()
            )
        };
        Ok(ended.map(text))
    }

    /// Waits for any HTTP response. The status does not matter: health depends on other processes,
    /// which may be down on purpose.
    async fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(died) = self.unexpected_exit()? {
                bail!(died);
            }
            if ask(self.addr, "/").await.is_some() {
                return Ok(());
            }
            ensure!(
                start.elapsed() < TIMEOUT,
                "{} does not respond {TIMEOUT:?} after its start; see {}",
                self.name,
                self.log().display()
            );
            sleep(POLL_INTERVAL).await;
        }
    }

    fn log(&self) -> PathBuf {
        self.place
            .folder
            .join(Path::new(&self.name).with_extension("log"))
    }
}

fn not_running(name: &str) -> String {
    format!("{name} is not running")
}

/// Asks for `path`, and returns the whole answer; `None` if there is none in time, or it is not
/// HTTP.
async fn ask(addr: SocketAddr, path: &str) -> Option<String> {
    // `connection: close` makes the server end the stream, for which `read_to_end` waits.
    let question = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let answer = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(question.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(ANSWER, answer).await.ok()?.ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.starts_with("HTTP/1.1 ").then_some(answer)
}
