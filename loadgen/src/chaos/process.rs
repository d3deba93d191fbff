//! A child process: its output goes to a file, and it is killed with this process.

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

use super::{host, wall_clock};

/// How often the exit of a child is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A running child. It is killed on drop, and by the kernel when this process dies.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: Pid,
}

/// The program to run, its environment and its log.
#[derive(Clone, Copy, Debug)]
pub struct ProcessSpec<'a> {
    /// The `storm-loadgen` binary that tethers the child to this process (see [`super::tether`]).
    pub tether: &'a Path,
    /// The path of the program.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: &'a [&'a OsStr],
    /// The whole environment.
    pub environment: &'a [(&'static str, String)],
    /// Its output is appended here. This process does the writing, so that the child's file size
    /// limit (`disk_full`) does not truncate its log.
    pub log: &'a Path,
}

impl Process {
    /// Starts it.
    ///
    /// The kernel kills the child when the calling *thread* ends. So call this from a runtime
    /// worker thread, never in `spawn_blocking`, whose threads end when they are idle.
    ///
    /// # Errors
    /// The process can't be started, or its log can't be opened.
    pub fn start(program: &ProcessSpec<'_>) -> Result<Self> {
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
            // The services read their settings from the environment. A `DB_URL` of the caller's
            // shell must not reach them.
            .env_clear()
            .envs(
                program
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            // Its own process group: Ctrl-C must reach this process only, which then stops the
            // rest.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("can't run {}", program.program.display()))?;
        copy_output(child.stdout.take(), out);
        copy_output(child.stderr.take(), err);
        let pid = Pid::from_child(&child);
        Ok(Self { child, pid })
    }

    /// Sends SIGKILL and waits.
    pub fn kill(mut self) {
        self.end();
    }

    /// Sends SIGSTOP: the process is suspended and cannot notice it.
    ///
    /// # Errors
    /// The process has exited.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Sends SIGCONT.
    ///
    /// # Errors
    /// The process has exited.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends SIGQUIT.
    ///
    /// # Errors
    /// The process has exited.
    pub fn quit(&mut self) -> Result<()> {
        self.signal(Signal::QUIT)
    }

    /// Its id.
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    /// The process has exited.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Limits the size of the files that it writes; none removes the limit.
    ///
    /// # Errors
    /// The process has exited.
    pub fn limit_files(&mut self, bytes: Option<u64>) -> Result<()> {
        self.must_run()?;
        host::limit_files(self.pid, bytes).context("can't limit its files")
    }

    /// The exit status, if the process has exited.
    ///
    /// # Errors
    /// The status can't be read.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// The exit status; none if it is still running at the deadline.
    ///
    /// # Errors
    /// The status can't be read.
    pub async fn end_by(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        loop {
            let status = self.ended()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Its resident memory in bytes; 0 after it has exited.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        status.ok().as_deref().and_then(resident_in).unwrap_or(0)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.must_run()?;
        kill_process(self.pid, signal).context("can't signal the process")
    }

    /// After `wait` the kernel may reuse the pid, so a signal could hit another process.
    fn must_run(&mut self) -> Result<()> {
        match self.ended()? {
            Some(status) => bail!("the process has exited: {status}"),
            None => Ok(()),
        }
    }

    fn end(&mut self) {
        // Both fail only if the process has exited and been reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
        wall_clock::remove_traces(self.child.id());
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
    // The kernel's `kB` is 1024 bytes.
    Some(kibibytes * 1024)
}

fn copy_output(text: Option<impl io::Read + Send + 'static>, mut log: File) {
    if let Some(mut text) = text {
        // The pipe must be drained at all times: once it is full, the child's writes block
        // (pipe(7)). The thread ends when the child closes its end.
        thread::spawn(move || io::copy(&mut text, &mut log));
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
