//! Graceful shutdown: the first signal starts it, the second one exits at once. A second SIGHUP
//! changes nothing.
//!
//! | signal | effect |
//! | --- | --- |
//! | SIGINT, SIGTERM, SIGQUIT | graceful shutdown |
//! | SIGHUP, in a service | the settings file is reread: [`program`](crate::program) |
//! | SIGHUP, in another program: its terminal is gone | shutdown, unless `nohup` had it ignored |
//! | SIGUSR1, SIGUSR2, SIGALRM | logged and ignored; by default they kill a process undrained |
//! | SIGPIPE | ignored, as Rust programs do |
//!
//! SIGKILL, and the signals of a crash, end the process at once. Nothing is lost then either.

use std::{fs, io, time::Duration};

use rustix::process::Signal;
use tokio::{
    signal::unix::{self, SignalKind},
    sync::mpsc,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// The signals that start every program's shutdown, by name.
const SHUTDOWN: [(&str, Signal); 3] = [
    ("SIGINT", Signal::INT),
    ("SIGTERM", Signal::TERM),
    ("SIGQUIT", Signal::QUIT),
];

/// The signal of a terminal that closes.
const HANGUP: (&str, Signal) = ("SIGHUP", Signal::HUP);

/// The signals without a meaning here, by name.
const IGNORED: [(&str, Signal); 3] = [
    ("SIGUSR1", Signal::USR1),
    ("SIGUSR2", Signal::USR2),
    ("SIGALRM", Signal::ALARM),
];

/// The two moments of a graceful shutdown. Clones share them.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// Cancelled by the first signal. The service is not ready from here on.
    pub begun: CancellationToken,
    /// Cancelled when the service stops accepting. A load balancer has had time by then to see that
    /// the service is not ready, and to send new requests elsewhere.
    pub closing: CancellationToken,
}

impl From<CancellationToken> for Shutdown {
    /// A shutdown without a delay.
    fn from(token: CancellationToken) -> Self {
        Self {
            begun: token.clone(),
            closing: token,
        }
    }
}

impl Shutdown {
    /// The shutdown of a service, which the first signal begins. The closing follows a SIGTERM
    /// after `delay`, and the other signals at once: they come from a terminal, and nobody balances
    /// load there. The second signal exits the process. SIGHUP is left to the caller.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub fn on_signal(delay: Duration) -> io::Result<Self> {
        Self::on(&SHUTDOWN, delay)
    }

    fn on(signals: &[(&'static str, Signal)], delay: Duration) -> io::Result<Self> {
        // Installed before this returns: until then a signal kills the process.
        let mut signals = install_handlers(signals)?;
        let shutdown = Self {
            begun: CancellationToken::new(),
            closing: CancellationToken::new(),
        };
        let Self { begun, closing } = shutdown.clone();
        tokio::spawn(async move {
            if let Some((name, signal)) = signals.recv().await {
                info!(signal = name, "shutting down; a second signal ends at once");
                begun.cancel();
                tokio::spawn(async move {
                    if signal == Signal::TERM {
                        sleep(delay).await;
                    }
                    closing.cancel();
                });
            }
            while let Some((name, signal)) = signals.recv().await {
                // A terminal that closes sends it more than once: from the shell and from the
                // kernel.
                if signal == Signal::HUP {
                    continue;
                }
                info!(signal = name, "second signal: exiting at once");
                // No cleanup: the store survives a kill at any instant.
                std::process::exit(128 + signal.as_raw()); // as a shell reports it
            }
        });
        Ok(shutdown)
    }
}

/// Returns a token that the first signal cancels. The second one exits the process. For a program
/// that is no service: the end of its terminal is a signal, too.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn on_signal() -> io::Result<CancellationToken> {
    let mut signals = SHUTDOWN.to_vec();
    // `nohup` means that the end of the terminal is not the end of the program.
    if !is_ignored(Signal::HUP) {
        signals.push(HANGUP);
    }
    Ok(Shutdown::on(&signals, Duration::ZERO)?.begun)
}

/// Installs the handlers of all signals. Those in `shutdown` are received.
fn install_handlers(
    shutdown: &[(&'static str, Signal)],
) -> io::Result<mpsc::Receiver<(&'static str, Signal)>> {
    let (sender, signals) = mpsc::channel(1);
    for (name, number) in shutdown.iter().copied() {
        tokio::spawn(forward(handler(number)?, name, number, sender.clone()));
    }
    for (name, number) in IGNORED {
        tokio::spawn(ignore(handler(number)?, name));
    }
    Ok(signals)
}

fn handler(number: Signal) -> io::Result<unix::Signal> {
    unix::signal(SignalKind::from_raw(number.as_raw()))
}

async fn forward(
    mut received: unix::Signal,
    name: &'static str,
    number: Signal,
    sender: mpsc::Sender<(&'static str, Signal)>,
) {
    while received.recv().await.is_some() {
        if sender.send((name, number)).await.is_err() {
            return;
        }
    }
}

async fn ignore(mut received: unix::Signal, name: &'static str) {
    while received.recv().await.is_some() {
        info!(
            signal = name,
            "this signal has no meaning here and is ignored"
        );
    }
}

/// Whether this process was started with the signal ignored. Only Linux tells.
fn is_ignored(number: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // proc(5): bit 0 stands for signal 1.
    mask.is_some_and(|mask| mask >> (number.as_raw() - 1) & 1 == 1)
}
