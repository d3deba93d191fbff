//! A `PostgreSQL` server of the run: the primary, or its standby.
//!
//! The server refuses to run as root. Then its processes run as another user, whose folder this is.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::{
    audit::Login,
    host,
    process::{Process, ProcessSpec},
};

/// How long it may take to start, to stop and to catch up on a machine under load.
const TIMEOUT: Duration = Duration::from_mins(1);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The role of the harness, which may do everything.
pub(super) const AUDITOR: &str = "auditor";

/// The configuration of each server. Nothing here outlives a power cut, and kills lose nothing that
/// the kernel has: so no fsync.
const CONFIGURATION: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
synchronous_commit = on
max_connections = 200
shared_buffers = 64MB
max_wal_size = 256MB
# A standby that was away goes on where it was.
wal_keep_size = 512MB
wal_retrieve_retry_interval = 100ms
# For pg_rewind.
wal_log_hints = on
restart_after_crash = on
log_min_duration_statement = -1
log_line_prefix = '%m [%p] %q%u '
";

/// Where the servers' programs are, and as whom they run.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    /// The `storm-loadgen` binary, which tethers children to this process.
    pub(super) tether: PathBuf,
    folder: PathBuf,
    /// Only for root.
    user: Option<User>,
}

/// A user of this host.
#[derive(Clone, Debug)]
struct User {
    uid: u32,
    gid: u32,
}

impl Programs {
    /// The programs in `folder`.
    ///
    /// # Errors
    /// There are none, or this is root and the host has no user to run them.
    pub(super) fn find(tether: &Path, folder: &Path) -> Result<Self> {
        for program in ["postgres", "initdb", "pg_basebackup", "pg_rewind"] {
            let path = folder.join(program);
            ensure!(path.is_file(), "there is no {}", path.display());
        }
        let user = if rustix::process::geteuid().is_root() {
            Some(unprivileged()?)
        } else {
            None
        };
        Ok(Self {
            tether: tether.to_owned(),
            folder: folder.to_owned(),
            user,
        })
    }

    /// A new folder for the servers' data, which their user can reach.
    ///
    /// # Errors
    /// It can't be made.
    pub(super) fn new_folder(&self) -> Result<PathBuf> {
        // Not in the run's folder: another user may not be able to reach that.
        let name = format!("storm-chaos-{}-{}", std::process::id(), fastrand::u32(..));
        let folder = std::env::temp_dir().join(name);
        let made = fs::create_dir(&folder);
        made.with_context(|| format!("can't make {}", folder.display()))?;
        if let Some(user) = &self.user {
            chown(&folder, Some(user.uid), Some(user.gid))?;
        }
        Ok(folder)
    }

    /// A program and its first arguments: those that change the user.
    fn command(&self, program: &str) -> (PathBuf, Vec<OsString>) {
        let path = self.folder.join(program);
        let Some(user) = &self.user else {
            return (path, Vec::new());
        };
        let change = [
            // This one's folder may be closed to the user.
            "--chdir=/".to_owned(),
            "setpriv".to_owned(),
            format!("--reuid={}", user.uid),
            format!("--regid={}", user.gid),
            "--clear-groups".to_owned(),
            // The kernel forgets the request of the tether when the user changes.
            "--pdeathsig=KILL".to_owned(),
        ];
        let mut arguments: Vec<OsString> = change.map(Into::into).into();
        arguments.push(path.into());
        ("env".into(), arguments)
    }

    /// Runs a program to its end.
    async fn run(&self, program: &str, arguments: Vec<OsString>) -> Result<()> {
        let (path, first) = self.command(program);
        let mut command = Command::new(path);
        command
            .args(first)
            .args(arguments)
            .current_dir("/")
            .env("LC_ALL", "C");
        let name = program.to_owned();
        let output = tokio::task::spawn_blocking(move || command.output()).await?;
        let output = output.with_context(|| format!("can't run {name}"))?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{name} failed: {}", error.trim());
        Ok(())
    }
}

/// The user of the server's package, or nobody.
fn unprivileged() -> Result<User> {
    let users = fs::read_to_string("/etc/passwd").context("can't read /etc/passwd")?;
    let named = |name: &str| {
        let line = users
            .lines()
            .find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some(User {
            uid: fields.next()?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
        })
    };
    let user = named("postgres").or_else(|| named("nobody"));
    user.context("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")
}

/// A server's data, and the server if it runs.
#[derive(Debug)]
pub(super) struct PostgresServer {
    programs: Programs,
    name: String,
    addr: SocketAddr,
    data: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl PostgresServer {
    /// A server at `addr` that has no data yet. They will be in `folder`, and its log in `logs`,
    /// under `name`.
    pub(super) fn new(
        programs: &Programs,
        addr: SocketAddr,
        folder: &Path,
        logs: &Path,
        name: &str,
    ) -> Self {
        Self {
            programs: programs.clone(),
            name: name.to_owned(),
            addr,
            data: folder.join(name),
            log: logs.join(format!("{name}.log")),
            process: None,
        }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How the harness logs in.
    pub(super) fn login(&self, database: &str) -> Login {
        Login {
            addr: self.addr,
            role: AUDITOR,
            database: database.to_owned(),
        }
    }

    /// Makes the data of a new server, at which only `role` needs a password.
    pub(super) async fn init(&self, role: &str) -> Result<()> {
        let arguments = [
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        ];
        let mut arguments: Vec<OsString> = arguments.map(Into::into).into();
        arguments.push(format!("--username={AUDITOR}").into());
        arguments.push(path("--pgdata=", &self.data));
        self.programs.run("initdb", arguments).await?;
        let file = self.data.join("postgresql.conf");
        let given = fs::read_to_string(&file)?;
        fs::write(&file, given + CONFIGURATION)?;
        // The first line that matches counts.
        let file = self.data.join("pg_hba.conf");
        let given = fs::read_to_string(&file)?;
        let first = format!("host all {role} 127.0.0.1/32 scram-sha-256\n");
        Ok(fs::write(&file, first + &given)?)
    }

    /// Makes it a standby of `primary`, with a copy of all its data.
    pub(super) async fn copy(&self, primary: &Self) -> Result<()> {
        if self.data.exists() {
            fs::remove_dir_all(&self.data)?;
        }
        let arguments = vec![
            path("--pgdata=", &self.data),
            format!("--dbname={}", primary.connection()).into(),
            "--checkpoint=fast".into(),
            "--no-sync".into(),
            "--write-recovery-conf".into(),
        ];
        self.programs.run("pg_basebackup", arguments).await
    }

    /// Makes it a standby of `primary`, which was its standby: what it alone has is undone.
    pub(super) async fn rewind(&self, primary: &Self) -> Result<()> {
        let arguments = vec![
            path("--target-pgdata=", &self.data),
            format!("--source-server={}", primary.connection()).into(),
            "--no-sync".into(),
            "--write-recovery-conf".into(),
        ];
        self.programs.run("pg_rewind", arguments).await
    }

    fn connection(&self) -> String {
        format!(
            "host={} port={} user={AUDITOR} dbname=postgres",
            self.addr.ip(),
            self.addr.port()
        )
    }

    /// Starts it with its data, and waits until it answers.
    pub(super) async fn start(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            self.process = Some(self.spawn()?);
            if self.answers(start).await? {
                return Ok(());
            }
            // Processes of the last run may still have its memory.
            ensure!(
                start.elapsed() < TIMEOUT,
                "{} does not start; see {}",
                self.name,
                self.log.display()
            );
            sleep(POLL_INTERVAL).await;
        }
    }

    fn spawn(&self) -> Result<Process> {
        let (program, mut arguments) = self.programs.command("postgres");
        arguments.extend(["-D".into(), self.data.clone().into()]);
        arguments.extend(["-p".into(), self.addr.port().to_string().into()]);
        let arguments: Vec<_> = arguments.iter().map(OsString::as_os_str).collect();
        let path = std::env::var("PATH").unwrap_or_default();
        Process::start(&ProcessSpec {
            tether: &self.programs.tether,
            program: &program,
            arguments: &arguments,
            environment: &[("LC_ALL", "C".to_owned()), ("PATH", path)],
            log: &self.log,
        })
    }

    /// Waits until it answers. Returns whether it does: it may have exited.
    async fn answers(&mut self, start: Instant) -> Result<bool> {
        loop {
            if self.process()?.ended()?.is_some() {
                return Ok(false);
            }
            match self.execute("SELECT 1").await {
                Ok(()) => return Ok(true),
                Err(error) if start.elapsed() > TIMEOUT => {
                    return Err(error.context(format!("{} is not ready", self.name)));
                }
                Err(_) => sleep(POLL_INTERVAL).await,
            }
        }
    }

    /// Sends SIGKILL to all its processes, and waits until they are gone.
    pub(super) async fn kill(&mut self) -> Result<()> {
        let processes = self.kill_at_once();
        let start = Instant::now();
        while processes.iter().any(|process| host::is_running(*process)) {
            ensure!(start.elapsed() < TIMEOUT, "{} can't be killed", self.name);
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Sends SIGKILL to all its processes. Returns those besides the main one.
    pub(super) fn kill_at_once(&mut self) -> Vec<Pid> {
        let others = self.freeze().unwrap_or_default(); // it may not run
        self.process = None; // dropping it kills it
        for process in &others {
            let _ = kill_process(*process, Signal::KILL); // it may be gone
        }
        others
    }

    /// Sends SIGSTOP to all its processes. Returns those besides the main one.
    pub(super) fn freeze(&mut self) -> Result<Vec<Pid>> {
        let main = self.process()?;
        // First the one that starts the others.
        main.freeze()?;
        let others = host::children(main.pid());
        for process in &others {
            let _ = kill_process(*process, Signal::STOP); // it may be gone
        }
        Ok(others)
    }

    /// Sends SIGCONT to all its processes.
    pub(super) fn thaw(&mut self, others: &[Pid]) -> Result<()> {
        for process in others {
            let _ = kill_process(*process, Signal::CONT); // it may be gone
        }
        self.process()?.thaw()
    }

    /// Stops it without a checkpoint and without waiting for anyone.
    pub(super) async fn stop(&mut self) -> Result<()> {
        let name = self.name.clone();
        let mut process = self.process.take().context("it is not running")?;
        process.quit()?;
        let ended = process.end_by(Instant::now() + TIMEOUT).await?;
        ensure!(ended.is_some(), "{name} does not stop");
        Ok(())
    }

    /// Makes a standby the primary, and waits until it writes.
    pub(super) async fn promote(&self) -> Result<()> {
        let seconds = TIMEOUT.as_secs();
        let promote = format!("SELECT pg_promote(true, {seconds})");
        let promoted = self.ask(&promote).await?;
        ensure!(promoted, "{} was not promoted", self.name);
        Ok(())
    }

    /// Whether its commits wait for the standby.
    pub(super) async fn set_synchronous(&self, synchronous: bool) -> Result<()> {
        let names = if synchronous { "*" } else { "" };
        // One statement each: the first may not be in a transaction with another.
        self.execute(&format!(
            "ALTER SYSTEM SET synchronous_standby_names = '{names}'"
        ))
        .await?;
        self.execute("SELECT pg_reload_conf()").await
    }

    /// Waits until its standby has all that it has written by now; synchronously, if its commits
    /// are to wait for that.
    pub(super) async fn wait_for_standby(&self, synchronous: bool) -> Result<()> {
        let (client, _open) = self.open().await?;
        let written = client.query_one("SELECT pg_current_wal_lsn()::text", &[]);
        let written: String = written.await?.try_get(0)?;
        let has_all = format!(
            "SELECT coalesce(bool_or(state = 'streaming' AND flush_lsn >= '{written}'
                 AND (sync_state = 'sync' OR NOT {synchronous})), false)
             FROM pg_stat_replication"
        );
        let start = Instant::now();
        while !client.query_one(&has_all, &[]).await?.try_get(0)? {
            ensure!(
                start.elapsed() < TIMEOUT,
                "the standby of {} did not catch up",
                self.name
            );
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Runs statements.
    pub(super) async fn execute(&self, sql: &str) -> Result<()> {
        let (client, _open) = self.open().await?;
        Ok(client.batch_execute(sql).await?)
    }

    /// Asks a question whose answer is yes or no.
    async fn ask(&self, sql: &str) -> Result<bool> {
        let (client, _open) = self.open().await?;
        Ok(client.query_one(sql, &[]).await?.try_get(0)?)
    }

    /// A new connection each time, because the server is killed in between.
    pub(super) async fn open(&self) -> Result<(Client, impl Sized + use<>)> {
        Ok(self.login("postgres").open().await?)
    }

    /// A message with the exit status, if it exited without being stopped.
    pub(super) fn unexpected_exit(&mut self) -> Result<Option<String>> {
        let Some(process) = &mut self.process else {
            return Ok(None);
        };
        let ended = process.ended()?;
        Ok(ended.map(|status| format!("{} exited by itself: {status}", self.name)))
    }

    fn process(&mut self) -> Result<&mut Process> {
        let name = &self.name;
        let process = self.process.as_mut();
        process.with_context(|| format!("{name} is not running"))
    }
}

fn path(option: &str, path: &Path) -> OsString {
    let mut text = OsString::from(option);
    text.push(path);
    text
}
