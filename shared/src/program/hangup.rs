//! SIGHUP: rereads the settings file.

use std::io;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::block_in_place,
};
use tracing::{error, info, warn};

use crate::{
    config::{REREAD, Reread, Rereader, SettingError, Settings, Warning},
    telemetry::OPERATOR,
};

/// Checks settings as the service's start does.
type Check = fn(&Settings) -> Result<(), SettingError>;

/// Rereads the settings on each SIGHUP from now on. Without a rereader, says that there is no file.
///
/// # Errors
/// The signal handler cannot be installed.
pub(super) fn reread_on_hangup(rereader: Option<Rereader>, check: Check) -> io::Result<()> {
    // Before this returns: until then the signal kills the process.
    let hangups = signal(SignalKind::hangup())?;
    tokio::spawn(listen(hangups, rereader, check));
    Ok(())
}

async fn listen(mut hangups: Signal, mut rereader: Option<Rereader>, check: Check) {
    while hangups.recv().await.is_some() {
        if let Some(rereader) = &mut rereader {
            // Blocking: a file system may be slow.
            log(block_in_place(|| rereader.reread(check)));
        } else {
            info!(target: OPERATOR, "{NO_FILE}");
        }
    }
}

const NO_FILE: &str = "SIGHUP: there is no settings file to reread; start the service with \
                       STORM_CONFIG set to the path of one";

fn log(reread: Result<Reread, SettingError>) {
    let reread = match reread {
        Ok(reread) => reread,
        Err(error) => {
            let message = "SIGHUP: the settings file is not accepted, so nothing has changed";
            error!(target: OPERATOR, %error, "{message}");
            return;
        }
    };
    for Warning { setting, problem } in &reread.warnings {
        warn!(target: OPERATOR, setting, problem, "a setting is doubtful");
    }
    if !reread.overridden.is_empty() {
        let settings = reread.overridden.join(", ");
        let message = "SIGHUP: the environment sets these, too, and overrides the file";
        warn!(target: OPERATOR, settings, "{message}");
    }
    if !reread.need_restart.is_empty() {
        let settings = reread.need_restart.join(", ");
        let message = "SIGHUP: a change of these settings needs a restart";
        warn!(target: OPERATOR, settings, reread = REREAD.join(", "), "{message}");
    }
    if reread.changed.is_empty() {
        let message = "SIGHUP: the settings file was reread; nothing in use has changed";
        info!(target: OPERATOR, "{message}");
    } else {
        let changed = reread.changed.join(", ");
        let message = "SIGHUP: the settings file was reread, and the changes are in use";
        info!(target: OPERATOR, changed, "{message}");
    }
}
