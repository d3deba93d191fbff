//! One child process: what it says goes to a file, and it doesn't outlive this one.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::host;

/// How often a child is looked at that is to end.
const LOOK: Duration = Duration::from_millis(5);

/// A running child. It is killed when this is dropped, and by the kernel when this process dies.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: Pid,
}

/// What to run, and where its words go.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// The `storm-loadgen` that ties a child to this process (see [`super::tether`]).
    pub tether: &'a Path,
    /// The program's file.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: &'a [&'a OsStr],
    /// The whole environment.
    pub environment: &'a [(&'static str, String)],
    /// What it writes is appended here. By us: a limit on the size of the child's files is not to
    /// cut its words.
    pub log: &'a Path,
}

impl Process {
    /// Starts it.
    ///
    /// The kernel kills it when the calling *thread* ends: call this where threads stay, never in
    /// a `spawn_blocking`.
    ///
    /// # Errors
    /// It can't be started, or its log not be written.
    pub fn start(program: &Program<'_>) -> Result<Self> {
        let log = || {
            File::options()
                .create(true)
                .append(true)
                .open(program.log)
                .with_context(|| format!("can't write {}", program.log.display()))
        };
        let (out, err) = (log()?, log()?);
        let mut child = Command::new(program.tether)
            .args(["tether", &std::process::id().to_string(), "--"])
            .arg(program.program)
            .args(program.arguments)
            .env_clear()
            .envs(
                program
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            // Ctrl-C is for this process alone, which then ends the others.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("can't run {}", program.program.display()))?;
        write_down(child.stdout.take(), out);
        write_down(child.stderr.take(), err);
        let pid = Pid::from_child(&child);
        Ok(Self { child, pid })
    }

    /// SIGKILL, and the end of it.
    pub fn kill(mut self) {
        self.end();
    }

    /// SIGSTOP: it does nothing any more, and knows nothing of it.
    ///
    /// # Errors
    /// It has ended.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It has ended.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGTERM.
    ///
    /// # Errors
    /// It has ended.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Limits the size of every file that it writes to; none is no limit.
    ///
    /// # Errors
    /// It has ended.
    pub fn limit_files(&mut self, bytes: Option<u64>) -> Result<()> {
        self.must_run()?;
        host::limit_files(self.pid, bytes).context("can't limit its files")
    }

    /// How it ended, once it has.
    ///
    /// # Errors
    /// The system doesn't say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// How it ended; none if it didn't by the deadline.
    ///
    /// # Errors
    /// The system doesn't say.
    pub async fn end_by(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        loop {
            let status = self.ended()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            sleep(LOOK).await;
        }
    }

    /// Its resident memory in bytes; 0 when it is gone.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        status.ok().as_deref().and_then(resident_in).unwrap_or(0)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.must_run()?;
        kill_process(self.pid, signal).context("can't signal it")
    }

    /// The id of a process that was waited for may be another's.
    fn must_run(&mut self) -> Result<()> {
        match self.ended()? {
            Some(status) => bail!("it has ended: {status}"),
            None => Ok(()),
        }
    }

    fn end(&mut self) {
        // Both fail only where it has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// `VmRSS` of a `/proc/<pid>/status`, in bytes.
fn resident_in(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn write_down(words: Option<impl io::Read + Send + 'static>, mut log: File) {
    if let Some(mut words) = words {
        // It ends with the child.
        thread::spawn(move || io::copy(&mut words, &mut log));
    }
}

#[cfg(test)]
mod tests {
    use super::resident_in;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmPeak:\t   9 kB\nVmRSS:\t    1234 kB\nThreads:\t1\n";
        assert_eq!(resident_in(status), Some(1234 * 1024));
        assert_eq!(resident_in("State:\tZ (zombie)\n"), None);
    }
}
