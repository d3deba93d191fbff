//! A real `PostgreSQL` server for one test: on a free port, killed with the test. The programs are
//! in the folder `POSTGRES_BIN`, and run as the user `POSTGRES_USER` if that is set: the server
//! refuses to run as root.

use std::{
    env, fs,
    io::{self, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use storm_shared::config::{Settings, StoreSettings};
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_postgres::{Client, Config, NoTls};

use crate::faketime;

/// A server's data, and the server if it runs.
pub(crate) struct PostgresServer {
    /// A small file system for a part of it. Unmounted before the folder is deleted.
    space: Option<Space>,
    folder: TempDir,
    port: u16,
    /// libfaketime, if a test sets the clock of the server.
    faketime: Option<PathBuf>,
}

/// What of a server is on a file system of its own.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    Data,
    Log,
}

/// A small file system in memory.
struct Space {
    folder: PathBuf,
}

impl Space {
    /// `None` if this user may not mount.
    fn mount(folder: &Path, mebibytes: u32) -> Option<Self> {
        fs::create_dir(folder).unwrap();
        let options = format!("size={mebibytes}m,mode=0777");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder);
        if !mount.output().is_ok_and(|mounted| mounted.status.success()) {
            // `println!` shows nothing of a test that passes.
            let _ = writeln!(io::stderr(), "skipped: this user can't mount a file system");
            return None;
        }
        if let Ok(user) = env::var("POSTGRES_USER") {
            run(Command::new("chown").arg(user).arg(folder));
        }
        let folder = folder.to_owned();
        Some(Self { folder })
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // The server has ended. Lazily: one of its processes may take a moment.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(&self.folder)
            .output();
    }
}

impl PostgresServer {
    /// Makes and starts a server, with the options `more` of its configuration. Everyone on this
    /// host may log in without a password.
    pub(crate) fn start(more: &[&str]) -> Self {
        Self::start_in(Self::new(), &[], more)
    }

    /// The same, on a file system of `space` MiB: its data, or its write-ahead log.
    pub(crate) fn start_with_little_room(part: Part, space: u32, more: &[&str]) -> Option<Self> {
        let mut server = Self::new();
        let folder = match part {
            Part::Data => server.data(),
            Part::Log => server.log(),
        };
        server.space = Some(Space::mount(&folder, space)?);
        let log = server.log();
        let log = ["--wal-segsize", "1", "--waldir", log.to_str().unwrap()];
        Some(Self::start_in(server, &log, more))
    }

    /// The same, with a clock that [`PostgresServer::set_clock`] sets, by libfaketime.
    #[allow(dead_code, reason = "only the tests of the worker need it")]
    pub(crate) fn start_with_clock(faketime: PathBuf) -> Self {
        let mut server = Self::new();
        server.faketime = Some(faketime);
        server.set_clock("+0");
        Self::start_in(server, &[], &[])
    }

    /// Sets its clock, relative to that of this host: `-30m` is half an hour behind.
    #[allow(dead_code, reason = "only the tests of the worker need it")]
    pub(crate) fn set_clock(&self, says: &str) {
        fs::write(self.clock(), says).unwrap();
    }

    fn clock(&self) -> PathBuf {
        self.folder.path().join("clock")
    }

    fn start_in(server: Self, initdb_options: &[&str], more: &[&str]) -> Self {
        let data = server.data();
        let mut initdb = program("initdb");
        initdb
            .args([
                "--username",
                "storm",
                "--auth",
                "trust",
                "--encoding",
                "UTF8",
            ])
            .args(["--no-locale", "--no-sync"])
            .args(initdb_options)
            .arg("--pgdata")
            .arg(&data);
        run(&mut initdb);
        server.configure(&["fsync = off", "listen_addresses = '127.0.0.1'"]);
        server.configure(more);
        server.begin();
        server
    }

    /// A folder for a server that does not run yet.
    fn new() -> Self {
        // Not in the folder of temporary files of this user, which others may not enter.
        let folder = TempDir::with_prefix_in("storm-postgres-", "/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = port.local_addr().unwrap().port();
        Self {
            space: None,
            folder,
            port,
            faketime: None,
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("wal")
    }

    /// Leaves no room in its small file system.
    pub(crate) fn fill(&self) {
        let filler = self.space.as_ref().unwrap().filler();
        let mut file = fs::File::create(filler).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    /// Makes room again.
    pub(crate) fn make_room(&self) {
        fs::remove_file(self.space.as_ref().unwrap().filler()).unwrap();
    }

    /// Whether it accepts connections.
    pub(crate) async fn is_up(&self) -> bool {
        self.try_client().await.is_ok()
    }

    /// Adds lines to the configuration, which count from the next start on.
    pub(crate) fn configure(&self, lines: &[&str]) {
        let file = self.data().join("postgresql.auto.conf");
        let before = fs::read_to_string(&file).unwrap_or_default();
        fs::write(&file, before + &lines.join("\n") + "\n").unwrap();
    }

    /// Starts it anew with TLS, for which it has this certificate and key.
    #[allow(dead_code, reason = "only the tests of the store need it")]
    pub(crate) fn encrypt(&self, certificate: &str, key: &str) {
        self.stop("fast");
        for (name, text, mode) in [
            ("server.crt", certificate, 0o644),
            ("server.key", key, 0o600),
        ] {
            let file = self.data().join(name);
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            if let Ok(user) = env::var("POSTGRES_USER") {
                run(Command::new("chown").arg(user).arg(file));
            }
        }
        self.configure(&["ssl = on"]);
        self.begin();
    }

    /// Replaces the rules of who may log in.
    pub(crate) fn allow(&self, rules: &str) {
        fs::write(self.data().join("pg_hba.conf"), rules).unwrap();
    }

    /// Adds the role `poor`, which has to send its password `hunter2`, and may create no table.
    pub(crate) async fn add_poor_role(&self) {
        self.execute(
            "CREATE ROLE poor LOGIN PASSWORD 'hunter2';
             REVOKE CREATE ON SCHEMA public FROM PUBLIC;",
        )
        .await;
        self.allow("host all poor 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n");
        self.execute("SELECT pg_reload_conf()").await;
    }

    /// Starts it, and waits until it answers. After a kill it refuses for as long as a process of
    /// the last run still has its memory.
    pub(crate) fn begin(&self) {
        let mut tries = 0;
        while tries < 50 && !self.try_begin() {
            std::thread::sleep(Duration::from_millis(200));
            tries += 1;
        }
        let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        assert!(tries < 50, "{}", log());
    }

    /// Starts it, if it can be started now.
    pub(crate) fn try_begin(&self) -> bool {
        let folder = self.folder.path();
        let options = format!("-p {} -k {}", self.port, folder.display());
        // By `env`: as root, setpriv itself would leave what of libfaketime is shared to root.
        let mut start = as_server_user(Command::new("env"));
        if let Some(library) = &self.faketime {
            let clock = self.clock();
            let set = faketime::environment(library, &clock);
            start.args(set.map(|(name, value)| format!("{name}={value}")));
        }
        start
            .arg(programs().join("pg_ctl"))
            .args(["--wait", "--silent", "--log"])
            .arg(folder.join("log"))
            .args(["--options", &options, "--pgdata"])
            .arg(self.data())
            .arg("start");
        start.output().unwrap().status.success()
    }

    /// Stops it: `immediate` is a crash of all its processes, without a checkpoint.
    pub(crate) fn stop(&self, mode: &str) {
        let mut stop = program("pg_ctl");
        stop.args(["--wait", "--silent", "--mode", mode, "--pgdata"])
            .arg(self.data())
            .arg("stop");
        run(&mut stop);
    }

    /// Kills the main process with SIGKILL. The others notice, and end.
    pub(crate) fn kill(&self) {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        run(Command::new("kill").args(["-s", "KILL", file.lines().next().unwrap()]));
    }

    /// A primary whose commits wait for its standby, and that standby.
    pub(crate) async fn with_standby() -> (Self, Self) {
        let primary = Self::start(&["synchronous_standby_names = '*'"]);
        // The standby is not there yet: until then no commit waits for it.
        primary
            .execute("ALTER SYSTEM SET synchronous_commit = 'local'")
            .await;
        primary.execute("SELECT pg_reload_conf()").await;
        let standby = primary.standby();
        standby.execute("SELECT 1").await;
        primary
            .execute("ALTER SYSTEM RESET synchronous_commit")
            .await;
        primary.execute("SELECT pg_reload_conf()").await;
        let waits = "SELECT count(*) FROM pg_settings
            WHERE name = 'synchronous_commit' AND setting = 'on'";
        until(async || primary.number(waits).await == 1).await;
        (primary, standby)
    }

    /// Makes this standby the primary, whose commits wait for nobody.
    pub(crate) async fn take_over(&self) {
        // Whoever promotes clears it, or every commit waits for a standby of the new primary.
        self.configure(&["synchronous_standby_names = ''"]);
        self.promote();
        self.execute("SELECT pg_reload_conf()").await;
    }

    /// A standby of this server, which follows it.
    pub(crate) fn standby(&self) -> Self {
        let standby = Self::new();
        let mut backup = program("pg_basebackup");
        backup
            .args(["--host", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--username", "storm", "--checkpoint", "fast", "--no-sync"])
            .args(["--write-recovery-conf", "--pgdata"])
            .arg(standby.data());
        run(&mut backup);
        standby.begin();
        standby
    }

    /// Makes a standby the primary.
    pub(crate) fn promote(&self) {
        let mut promote = program("pg_ctl");
        promote
            .args(["--wait", "--silent", "--pgdata"])
            .arg(self.data())
            .arg("promote");
        run(&mut promote);
    }

    /// Its address, without a login and a database.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn host_and_port(&self) -> (&'static str, u16) {
        ("127.0.0.1", self.port)
    }

    /// `DB_URL` of its database `postgres`.
    pub(crate) fn url(&self) -> String {
        format!("postgres://storm@{}/postgres", self.address())
    }

    /// The same, at its socket.
    #[allow(dead_code, reason = "only the tests of the store need it")]
    pub(crate) fn socket_url(&self) -> String {
        let folder = self.folder.path().display();
        format!("postgres://storm@:{}/postgres?host={folder}", self.port)
    }

    /// The settings of a store in that database.
    pub(crate) fn settings(&self) -> StoreSettings {
        settings(&self.url())
    }

    /// Another program's connection to it.
    pub(crate) async fn client(&self) -> Client {
        self.try_client().await.unwrap()
    }

    async fn try_client(&self) -> Result<Client, tokio_postgres::Error> {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user("storm")
            .dbname("postgres");
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// The number in the only row that `sql` finds.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let row = self.client().await.query_one(sql, &[]).await;
        row.unwrap().get(0)
    }

    /// How many jobs it has.
    pub(crate) async fn jobs(&self) -> i64 {
        self.number("SELECT count(*) FROM requests").await
    }

    /// How many commits wait for its standby.
    pub(crate) async fn waiting_commits(&self) -> i64 {
        self.number("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            .await
    }

    /// Runs statements as another program.
    pub(crate) async fn execute(&self, sql: &str) {
        self.client().await.batch_execute(sql).await.unwrap();
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let mut stop = program("pg_ctl");
        stop.args(["--silent", "--mode", "immediate", "--pgdata"])
            .arg(self.data())
            .arg("stop");
        let _ = stop.output(); // it may have been stopped, or killed
    }
}

/// Waits until `done`, by asking again and again.
pub(crate) async fn until(mut done: impl AsyncFnMut() -> bool) {
    while !done().await {
        sleep(Duration::from_millis(20)).await;
    }
}

/// The settings of a store at `url`.
pub(crate) fn settings(url: &str) -> StoreSettings {
    Settings::with([("DB_URL", url)]).unwrap().store
}

fn program(name: &str) -> Command {
    as_server_user(Command::new(programs().join(name)))
}

fn programs() -> PathBuf {
    let folder = env::var("POSTGRES_BIN").expect("POSTGRES_BIN is the folder of initdb and pg_ctl");
    folder.into()
}

/// A program, as the user that the server runs as.
pub(crate) fn as_server_user(program: Command) -> Command {
    let Ok(user) = env::var("POSTGRES_USER") else {
        return program;
    };
    let mut command = Command::new("setpriv");
    command
        .args([format!("--reuid={user}"), "--clear-groups".to_owned()])
        .arg(program.get_program())
        .current_dir("/");
    command
}

fn run(command: &mut Command) {
    let Output { status, stderr, .. } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {stderr}");
}
