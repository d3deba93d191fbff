//! A real `PostgreSQL` server for one test: on a free port, killed with the test. The programs are
//! in the folder `POSTGRES_BIN`, and run as the user `POSTGRES_USER` if that is set: the server
//! refuses to run as root.

use std::{
    env, fs,
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

/// A server's data, and the server if it runs.
pub(crate) struct PostgresServer {
    folder: TempDir,
    port: u16,
}

impl PostgresServer {
    /// Makes and starts a server, with the options `more` of its configuration. Everyone on this
    /// host may log in without a password.
    pub(crate) fn start(more: &[&str]) -> Self {
        let server = Self::new();
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
            .args(["--no-locale", "--no-sync", "--pgdata"])
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
        Self { folder, port }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Adds lines to the configuration, which count from the next start on.
    pub(crate) fn configure(&self, lines: &[&str]) {
        let file = self.data().join("postgresql.auto.conf");
        let before = fs::read_to_string(&file).unwrap_or_default();
        fs::write(&file, before + &lines.join("\n") + "\n").unwrap();
    }

    /// Replaces the rules of who may log in.
    pub(crate) fn allow(&self, rules: &str) {
        fs::write(self.data().join("pg_hba.conf"), rules).unwrap();
    }

    /// Starts it, and waits until it answers. After a kill it refuses for as long as a process of
    /// the last run still has its memory.
    pub(crate) fn begin(&self) {
        let folder = self.folder.path();
        let options = format!("-p {} -k {}", self.port, folder.display());
        let mut start = program("pg_ctl");
        start
            .args(["--wait", "--silent", "--log"])
            .arg(folder.join("log"))
            .args(["--options", &options, "--pgdata"])
            .arg(self.data())
            .arg("start");
        let mut tries = 0;
        while tries < 50 && !start.output().unwrap().status.success() {
            std::thread::sleep(Duration::from_millis(200));
            tries += 1;
        }
        let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(tries < 50, "{}", log());
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

    /// `DB_URL` of its database `postgres`.
    pub(crate) fn url(&self) -> String {
        format!("postgres://storm@{}/postgres", self.address())
    }

    /// The settings of a store in that database.
    pub(crate) fn settings(&self) -> StoreSettings {
        settings(&self.url())
    }

    /// Another program's connection to it.
    pub(crate) async fn client(&self) -> Client {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user("storm")
            .dbname("postgres");
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
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
pub(crate) async fn until<F: Future<Output = bool>>(mut done: impl FnMut() -> F) {
    while !done().await {
        sleep(Duration::from_millis(20)).await;
    }
}

/// The settings of a store at `url`.
pub(crate) fn settings(url: &str) -> StoreSettings {
    Settings::with([("DB_URL", url)]).unwrap().store
}

fn program(name: &str) -> Command {
    let folder = env::var("POSTGRES_BIN").expect("POSTGRES_BIN is the folder of initdb and pg_ctl");
    let program = Path::new(&folder).join(name);
    let Ok(user) = env::var("POSTGRES_USER") else {
        return Command::new(program);
    };
    let mut command = Command::new("setpriv");
    command
        .args([format!("--reuid={user}"), "--clear-groups".to_owned()])
        .arg(program)
        .current_dir("/");
    command
}

fn run(command: &mut Command) {
    let Output { status, stderr, .. } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {stderr}");
}
