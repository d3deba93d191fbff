//! SIGHUP: rereads the settings file.

use std::io;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::block_in_place,
};
use tracing::{error, info, warn};

use crate::{
    config::{HANDLERS, Reread, Rereader, SettingError, Settings, Warning},
    telemetry::OPERATOR,
};

/// Checks settings as the service's start does.
type Check = fn(&Settings) -> Result<(), SettingError>;

/// Rereads the settings on each SIGHUP from now on. Without a rereader, says that there is no file.
/// What is logged is about those in `used`.
///
/// # Errors
/// The signal handler cannot be installed.
pub(super) fn reread_on_hangup(
    rereader: Option<Rereader>,
    check: Check,
    used: &'static [&'static str],
) -> io::Result<()> {
    // Before this returns: until then the signal kills the process.
    let hangups = signal(SignalKind::hangup())?;
    tokio::spawn(listen(hangups, rereader, check, used));
    Ok(())
}

async fn listen(
    mut hangups: Signal,
    mut rereader: Option<Rereader>,
    check: Check,
    used: &'static [&'static str],
) {
    while hangups.recv().await.is_some() {
        if let Some(rereader) = &mut rereader {
            // Blocking: a file system may be slow.
            log(block_in_place(|| rereader.reread(check)), used);
        } else {
            info!(
                target: OPERATOR,
                "SIGHUP: there is no settings file to reread; start the service with STORM_CONFIG \
                 set to the path of one"
            );
        }
    }
}

fn log(reread: Result<Reread, SettingError>, used: &[&str]) {
    let reread = match reread {
        Ok(reread) => reread,
        Err(error) => {
            error!(
                target: OPERATOR,
                %error,
                "SIGHUP: the settings file is not accepted, so nothing has changed"
            );
            return;
        }
    };
    for Warning { setting, problem } in &reread.warnings {
        warn!(target: OPERATOR, setting, problem, "a setting is doubtful");
    }
    // The others are those of another program, which shares the file.
    let of_ours = |mut names: Vec<String>| {
        names.retain(|name| is_used(name, used));
        names.join(", ")
    };
    let settings = of_ours(reread.overridden);
    if !settings.is_empty() {
        warn!(
            target: OPERATOR,
            settings,
            "SIGHUP: the environment sets these, too, and overrides the file"
        );
    }
    if !reread.need_restart.is_empty() {
        let settings = reread.need_restart.join(", ");
        warn!(
            target: OPERATOR,
            settings,
            reread = used.join(", "),
            "SIGHUP: a change of these settings needs a restart"
        );
    }
    let changed = of_ours(reread.changed);
    if changed.is_empty() {
        info!(
            target: OPERATOR,
            "SIGHUP: the settings file was reread; nothing in use has changed"
        );
    } else {
        info!(
            target: OPERATOR,
            changed,
            "SIGHUP: the settings file was reread, and the changes are in use"
        );
    }
}

/// Whether `name` is in `used`. [`HANDLERS`] stands for each handler's table.
fn is_used(name: &str, used: &[&str]) -> bool {
    let is_table = name.starts_with("HANDLERS__");
    used.contains(&name) || (is_table && used.contains(&HANDLERS))
}

#[cfg(test)]
mod tests {
    use super::is_used;

    #[test]
    fn the_tables_of_handlers_have_one_name_among_the_settings_that_a_service_rereads() {
        let used = ["METRICS_TOKEN", "HANDLERS"];
        assert!(is_used("HANDLERS__PDF", &used) && is_used("METRICS_TOKEN", &used));
        assert!(!is_used("API_TOKENS", &used));
        assert!(!is_used("HANDLERS__PDF", &["METRICS_TOKEN"]));
    }
}
