//! How a process is told to end: SIGINT or SIGTERM once ends it in order, twice at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// A token that is cancelled by the first SIGINT or SIGTERM. The second one ends the process.
///
/// # Errors
/// The signal handlers could not be installed.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        let (name, _) = either(&mut interrupt, &mut terminate).await;
        info!(signal = name, "shutting down; a second signal ends at once");
        cancel.cancel();
        let (name, status) = either(&mut interrupt, &mut terminate).await;
        info!(signal = name, "told twice: ending at once");
        std::process::exit(status);
    });
    Ok(token)
}

/// The signal's name, and the exit status that a shell gives for it.
async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> (&'static str, i32) {
    tokio::select! {
        _ = interrupt.recv() => ("SIGINT", 130),
        _ = terminate.recv() => ("SIGTERM", 143),
    }
}
