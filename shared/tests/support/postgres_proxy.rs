//! A proxy before a `PostgreSQL` server, which loses the commit of a transaction or its answer, has
//! its begin refused, or stops to forward anything.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// Where a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The server does not get the commit.
    BeforeCommit,
    /// The client does not get the answer to it.
    AfterCommit,
    /// The server does not get the commit, nor the end of the connection: the client's host has
    /// vanished.
    Never,
}

/// A listening proxy. It ends with the test.
pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    /// What the next commit meets.
    cut: Mutex<Option<Cut>>,
    /// The code with which the next begin of a write is refused.
    refusal: Mutex<Option<&'static str>>,
    /// Whether connections from now on are frozen.
    frozen: Mutex<watch::Sender<bool>>,
}

impl Proxy {
    /// Forwards connections to the server at `address`.
    pub(crate) async fn to(address: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            cut: Mutex::new(None),
            refusal: Mutex::new(None),
            frozen: Mutex::new(watch::Sender::new(false)),
        });
        let of_task = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&address).await;
                let state = Arc::clone(&of_task);
                let frozen = state.frozen.lock().unwrap().subscribe();
                tokio::spawn(async move {
                    // The end of one side is that of the other.
                    if let Ok(server) = server {
                        let _ = forward(client, server, &state, frozen).await;
                    }
                });
            }
        });
        Self { port, state, task }
    }

    /// Its address, without a login and a database.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Cuts the next connection that commits.
    pub(crate) fn cut(&self, cut: Cut) {
        *self.state.cut.lock().unwrap() = Some(cut);
    }

    /// Has the server refuse the next begin of a write with this code, and nothing else: as if the
    /// begin alone was cancelled.
    pub(crate) fn refuse_begin(&self, code: &'static str) {
        *self.state.refusal.lock().unwrap() = Some(code);
    }

    /// Whether no begin has come since.
    pub(crate) fn will_refuse(&self) -> bool {
        self.state.refusal.lock().unwrap().is_some()
    }

    /// From now on nothing is forwarded, and no connection ends.
    pub(crate) fn freeze(&self) {
        self.state.frozen.lock().unwrap().send_replace(true);
    }

    /// Forwards new connections. Those from before stay as they are.
    pub(crate) fn forward_new_ones(&self) {
        *self.state.frozen.lock().unwrap() = watch::Sender::new(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    client: TcpStream,
    server: TcpStream,
    state: &State,
    frozen: watch::Receiver<bool>,
) -> io::Result<()> {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let is_cut = AtomicBool::new(false);
    tokio::select! {
        ended = requests(from_client, to_server, state, frozen.clone(), &is_cut) => ended,
        ended = answers(from_server, to_client, frozen, &is_cut) => ended,
    }
}

/// Forwards what the client sends: a length and a message, and then messages with a type each.
async fn requests(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    state: &State,
    mut frozen: watch::Receiver<bool>,
    is_cut: &AtomicBool,
) -> io::Result<()> {
    let length = client.read_u32().await?;
    let mut startup = length.to_be_bytes().to_vec();
    startup.resize(length as usize, 0);
    client.read_exact(&mut startup[4..]).await?;
    thaw(&mut frozen).await;
    server.write_all(&startup).await?;
    loop {
        let mut message = message(&mut client).await?;
        thaw(&mut frozen).await;
        if is_begin_of_write(&message)
            && let Some(code) = state.refusal.lock().unwrap().take()
        {
            message = query(&format!("DO $$ BEGIN RAISE SQLSTATE '{code}'; END $$"));
        }
        if message[0] == b'Q' && message.ends_with(b"COMMIT\0") {
            let cut = state.cut.lock().unwrap().take();
            match cut {
                Some(Cut::BeforeCommit) => return Ok(()),
                Some(Cut::Never) => std::future::pending().await,
                Some(Cut::AfterCommit) => is_cut.store(true, Ordering::Relaxed),
                None => {}
            }
        }
        server.write_all(&message).await?;
    }
}

fn is_begin_of_write(message: &[u8]) -> bool {
    let sql = String::from_utf8_lossy(&message[5..]);
    message[0] == b'Q' && sql.starts_with("BEGIN") && !sql.contains("READ ONLY")
}

/// A message with statements as text.
fn query(sql: &str) -> Vec<u8> {
    let length = u32::try_from(4 + sql.len() + 1).unwrap();
    let mut message = vec![b'Q'];
    message.extend(length.to_be_bytes());
    message.extend(sql.as_bytes());
    message.push(0);
    message
}

/// Forwards what the server answers.
async fn answers(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    mut frozen: watch::Receiver<bool>,
    is_cut: &AtomicBool,
) -> io::Result<()> {
    loop {
        let message = message(&mut server).await?;
        thaw(&mut frozen).await;
        if is_cut.load(Ordering::Relaxed) && &message[5..] == b"COMMIT\0" {
            return Ok(());
        }
        client.write_all(&message).await?;
    }
}

/// A type, a length that counts itself, and what follows.
async fn message(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mut message = vec![0; 5];
    from.read_exact(&mut message).await?;
    let length = u32::from_be_bytes([message[1], message[2], message[3], message[4]]);
    message.resize(1 + length as usize, 0);
    from.read_exact(&mut message[5..]).await?;
    Ok(message)
}

/// Waits while the connection is frozen: for ever, once only new ones are forwarded.
async fn thaw(frozen: &mut watch::Receiver<bool>) {
    if frozen.wait_for(|frozen| !frozen).await.is_err() && *frozen.borrow() {
        std::future::pending::<()>().await;
    }
}
