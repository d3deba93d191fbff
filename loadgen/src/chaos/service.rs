//! The api or a worker of a run: a process that is killed and started again many times.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::process::{Process, Program};

/// How long a service may take to start, on a machine that is busy with a storm.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it is asked whether it is ready, and how long it may take to say so.
const LOOK: Duration = Duration::from_millis(20);
const ANSWER: Duration = Duration::from_secs(2);

/// What a service needs to know of where it runs.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Our own program, which ties children to us.
    pub(super) tether: PathBuf,
    /// Where the services' programs are.
    pub(super) bin: PathBuf,
    /// Where their words go.
    pub(super) folder: PathBuf,
}

/// One service.
#[derive(Debug)]
pub(super) struct Service {
    name: String,
    place: Place,
    program: &'static str,
    addr: SocketAddr,
    settings: Vec<(&'static str, String)>,
    process: Option<Process>,
}

impl Service {
    /// A service that is not started yet, and will answer at `addr`.
    pub(super) fn new(
        name: &str,
        program: &'static str,
        addr: SocketAddr,
        place: &Place,
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

    /// Starts it, and waits until it answers.
    pub(super) async fn start(&mut self) -> Result<()> {
        let program = self.place.bin.join(self.program);
        let process = Process::start(&Program {
            tether: &self.place.tether,
            program: &program,
            arguments: &[],
            environment: &self.settings,
            log: &self.log(),
        })?;
        self.process = Some(process);
        self.answers().await
    }

    /// kill -9.
    pub(super) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM: it is to end with status 0 within `patience`.
    pub(super) async fn stop(&mut self, patience: Duration) -> Result<()> {
        let name = self.name.clone();
        let mut process = self.process.take().with_context(|| not_running(&name))?;
        process.terminate()?;
        let Some(status) = process.end_by(Instant::now() + patience).await? else {
            bail!("{name} did not end within {patience:?} of SIGTERM");
        };
        ensure!(
            status.success(),
            "{name} was told to end, and its end was: {status}"
        );
        Ok(())
    }

    /// The running process.
    pub(super) fn process(&mut self) -> Result<&mut Process> {
        let name = &self.name;
        self.process.as_mut().with_context(|| not_running(name))
    }

    /// Resident memory in bytes, 0 while it doesn't run.
    pub(super) fn resident(&self) -> u64 {
        self.process.as_ref().map_or(0, Process::resident)
    }

    /// How it ended, if it did without having been told or killed.
    pub(super) fn died(&mut self) -> Result<Option<String>> {
        let Some(process) = &mut self.process else {
            return Ok(None);
        };
        let ended = process.ended()?;
        let words = |status| {
            format!(
                "{} ended by itself: {status}; see {}",
                self.name,
                self.log().display()
            )
        };
        Ok(ended.map(words))
    }

    /// Waits until it answers anything at all: what it says of its health depends on others.
    async fn answers(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(died) = self.died()? {
                bail!(died);
            }
            if let Ok(true) = timeout(ANSWER, is_http(self.addr)).await {
                return Ok(());
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "{} does not answer {PATIENCE:?} after its start; see {}",
                self.name,
                self.log().display()
            );
            sleep(LOOK).await;
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

async fn is_http(addr: SocketAddr) -> bool {
    const QUESTION: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(QUESTION).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    answer
        .await
        .is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 "))
}
