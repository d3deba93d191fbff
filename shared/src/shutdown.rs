//! Graceful shutdown: the first SIGINT or SIGTERM starts it, the second one exits at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Returns a token that the first SIGINT or SIGTERM cancels. The second one exits the process.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    // Installed before this returns: until then a signal kills the process.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        let (name, _) = either(&mut interrupt, &mut terminate).await;
        info!(signal = name, "shutting down; a second signal ends at once");
        cancel.cancel();
        let (name, status) = either(&mut interrupt, &mut terminate).await;
        info!(signal = name, "second signal: exiting at once");
        // No cleanup: the store survives a kill at any instant.
        std::process::exit(status);
    });
    Ok(token)
}

/// The signal's name, and the exit status that a shell reports for it (128 + its number).
async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> (&'static str, i32) {
    tokio::select! {
        _ = interrupt.recv() => ("SIGINT", 130),
        _ = terminate.recv() => ("SIGTERM", 143),
    }
}
