//! A real Redis for one test: on a free port, without persistence, killed with the test.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    process::{Child, Command, Stdio},
};

/// A running `redis-server`: the binary in `REDIS_SERVER`, or the first one in `PATH`.
pub(crate) struct RedisServer {
    process: Child,
    port: u16,
}

#[allow(dead_code, reason = "not every test crate uses every method")]
impl RedisServer {
    /// Starts a server on a free port.
    pub(crate) fn start() -> Self {
        // Another process may take the port between finding and binding it; try another one then.
        loop {
            let port = free_port();
            if let Some(server) = Self::start_on(port) {
                return server;
            }
        }
    }

    /// Starts a server on `port`. Returns `None` if the port is taken.
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
        // Keep reading: Redis blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let mut server = Self { process, port };
        if !ready {
            server.kill();
            return None;
        }
        Some(server)
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The URL.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs one command on a new connection and returns the reply.
    pub(crate) fn command(&self, command: &redis::Cmd) -> redis::Value {
        let client = redis::Client::open(self.url()).unwrap();
        command
            .query(&mut client.get_connection().unwrap())
            .unwrap()
    }

    /// Kills the server with SIGKILL.
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

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
