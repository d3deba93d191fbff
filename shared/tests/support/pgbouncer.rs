//! A real `PgBouncer` in transaction mode for one test: on a free port, killed with the test. The
//! program is `PGBOUNCER`, or that of Debian.

use std::{
    env, fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use storm_shared::config::StoreSettings;
use tempfile::TempDir;

use crate::postgres_server::{PostgresServer, as_server_user, settings};

/// A running pooler.
pub(crate) struct PgBouncer {
    folder: TempDir,
    port: u16,
    options: String,
    process: Child,
}

impl PgBouncer {
    /// Starts one before `server`, with the lines `options` of its configuration.
    pub(crate) fn before(server: &PostgresServer, options: &[&str]) -> Self {
        let folder = TempDir::with_prefix_in("storm-pgbouncer-", "/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = port.local_addr().unwrap().port();
        let options = options.join("\n");
        configure(&folder, port, &options, server);
        let process = run(&folder, port);
        Self {
            folder,
            port,
            options,
            process,
        }
    }

    /// Leads to another server from now on, also for the clients that are connected.
    pub(crate) fn lead_to(&self, server: &PostgresServer) {
        configure(&self.folder, self.port, &self.options, server);
        kill_process(self.pid(), Signal::HUP).unwrap();
    }

    /// Kills it, and starts it again.
    pub(crate) fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = run(&self.folder, self.port);
    }

    /// Its address, without a login and a database.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The settings of a store in the database `postgres` behind it.
    pub(crate) fn settings(&self) -> StoreSettings {
        settings(&format!("postgres://storm@{}/postgres", self.address()))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended
        let _ = self.process.wait();
    }
}

fn configure(folder: &TempDir, port: u16, options: &str, server: &PostgresServer) {
    let users = folder.path().join("users");
    fs::write(&users, "\"storm\" \"\"\n").unwrap();
    let (host, server_port) = server.host_and_port();
    let lines = format!(
        "[databases]\n* = host={host} port={server_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
         pool_mode = transaction\nmax_client_conn = 500\n{options}\n",
        users.display(),
    );
    fs::write(folder.path().join("pgbouncer.ini"), lines).unwrap();
}

fn run(folder: &TempDir, port: u16) -> Child {
    let program = env::var("PGBOUNCER").unwrap_or_else(|_| "/usr/sbin/pgbouncer".to_owned());
    // Without -d it stays in the foreground, and without a user of its own in that of the server.
    let mut process = as_server_user(Command::new(&program))
        .arg("--quiet")
        .arg(folder.path().join("pgbouncer.ini"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} is needed by this test: {error}"));
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let ended = process.try_wait().unwrap();
        assert!(ended.is_none(), "{program} does not start: {ended:?}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    process
}
