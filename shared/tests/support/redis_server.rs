//! A real Redis for one test: on a free port, without persistence, killed with the test.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// A running `redis-server`: the binary in `REDIS_SERVER`, or the first one in `PATH`.
pub(crate) struct RedisServer {
    process: Child,
    port: u16,
    /// A replica writes what its master sends to a file.
    _folder: TempDir,
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

    /// Starts a server that also listens on a Unix socket, and returns that socket's URL.
    pub(crate) fn start_at_socket(socket: &std::path::Path) -> (Self, String) {
        let socket = socket.to_str().unwrap();
        loop {
            let started = Self::start_with(free_port(), &["--unixsocket", socket]);
            if let Some(server) = started {
                return (server, format!("unix://{socket}"));
            }
        }
    }

    /// Starts a server on `port`. Returns `None` if the port is taken.
    pub(crate) fn start_on(port: u16) -> Option<Self> {
        Self::start_with(port, &[])
    }

    fn start_with(port: u16, more: &[&str]) -> Option<Self> {
        let program = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let folder = TempDir::new().unwrap();
        let mut process = Command::new(&program)
            .current_dir(&folder)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            // A replica need not wait for others that could sync with it.
            .args(["--repl-diskless-sync-delay", "0"])
            .args(more)
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
        let mut server = Self {
            process,
            port,
            _folder: folder,
        };
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

    /// Makes it a read-only replica of `master`, or a master again.
    pub(crate) fn replicate(&self, master: Option<&Self>) {
        let mut command = redis::cmd("REPLICAOF");
        match master {
            Some(master) => command.arg("127.0.0.1").arg(master.port),
            None => command.arg("NO").arg("ONE"),
        };
        self.command(&command);
    }

    /// Runs one command, given as its words.
    pub(crate) fn run(&self, words: &str) -> redis::Value {
        let mut words = words.split_whitespace();
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(word);
        });
        self.command(&command)
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
