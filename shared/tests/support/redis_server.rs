//! A real Redis of a test's own: on a free port, without persistence, gone with the test.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    process::{Child, Command, Stdio},
};

/// A running `redis-server`: the one that `REDIS_SERVER` names, or the first in `PATH`.
pub(crate) struct RedisServer {
    process: Child,
    port: u16,
}

#[allow(
    dead_code,
    reason = "not every test that starts one asks it for everything"
)]
impl RedisServer {
    /// Starts one on a free port.
    pub(crate) fn start() -> Self {
        // Between finding a port free and taking it another process may be quicker: try another.
        loop {
            let port = free_port();
            if let Some(server) = Self::start_on(port) {
                return server;
            }
        }
    }

    /// Starts one on `port`; none if the port is taken.
    pub(crate) fn start_on(port: u16) -> Option<Self> {
        let program = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let mut process = Command::new(&program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} is needed by this test: {error}"));
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.contains("Ready to accept"));
        // Somebody must read on, or Redis stops at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let mut server = Self { process, port };
        if !ready {
            server.kill();
            return None;
        }
        Some(server)
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs one command and gives the answer, over a connection of its own.
    pub(crate) fn command(&self, command: &redis::Cmd) -> redis::Value {
        let client = redis::Client::open(self.url()).unwrap();
        command
            .query(&mut client.get_connection().unwrap())
            .unwrap()
    }

    /// Kills it, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listened on a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
