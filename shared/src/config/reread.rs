//! Rereading the settings file while a service runs: SIGHUP.

use super::{
    HandlerKind, HandlerSettings, Handlers, SettingError, Settings, Warning,
    handlers::tables,
    layers::{self, Layers},
    updates::Updates,
    worker_concurrency,
};

/// The settings that a running service rereads, besides [`HANDLERS`]. All others need a restart,
/// and so does it to empty one of these.
pub const REREAD: [&str; 5] = [
    "ADMIN_TOKENS",
    "API_TOKENS",
    "CALLBACK_SIGNING_SECRETS",
    "METRICS_TOKEN",
    "RATE_LIMIT",
];

/// Among the names of settings, this one stands for the tables of all handlers, which are reread,
/// too. A table's own name is `HANDLERS__NAME`.
pub const HANDLERS: &str = "HANDLERS";

/// Rereads the settings file of this process.
pub struct Rereader {
    /// The sources of the settings with which the process started.
    started: Layers,
    /// The sources that were accepted last.
    latest: Layers,
    updates: Updates,
}

/// What became of a settings file that was reread and accepted. Names are in upper case.
#[derive(Debug, PartialEq, Eq)]
pub struct Reread {
    /// The settings that have changed since the last time, and are in use now.
    pub changed: Vec<String>,
    /// The settings that differ from those of the start, and need a restart.
    pub need_restart: Vec<String>,
    /// The settings whose value in the file is not used, because the environment sets another.
    pub overridden: Vec<String>,
    /// Settings that are accepted and doubtful. Log a warning for each.
    pub warnings: Vec<Warning>,
}

impl Settings {
    /// [`Settings::load`], and what rereads the file. `None` if `STORM_CONFIG` names no file.
    ///
    /// # Errors
    /// Those of [`Settings::load`].
    pub fn load_rereadable() -> Result<(Self, Option<Rereader>), SettingError> {
        let layers = Layers::from_process()?;
        let settings = Self::read(&layers)?;
        let rereader = layers.has_file().then(|| Rereader {
            started: layers.clone(),
            latest: layers,
            updates: settings.updates.clone(),
        });
        Ok((settings, rereader))
    }
}

impl Rereader {
    /// Reads the file again and passes what has changed on to the running service. `check` is that
    /// of the service's start.
    ///
    /// # Errors
    /// The first setting that is not accepted, as at the start. Nothing has changed then.
    pub fn reread(
        &mut self,
        check: impl FnOnce(&Settings) -> Result<(), SettingError>,
    ) -> Result<Reread, SettingError> {
        let layers = Layers::from_process()?;
        self.accept(layers, check)
    }

    fn accept(
        &mut self,
        layers: Layers,
        check: impl FnOnce(&Settings) -> Result<(), SettingError>,
    ) -> Result<Reread, SettingError> {
        let settings = Settings::read(&layers)?;
        check(&settings)?;
        // A file that is cut off, or was edited in haste, must not turn off authentication,
        // signing, rate limits or `/admin`.
        for name in REREAD {
            if layers.value(name)?.is_empty() && !self.latest.value(name)?.is_empty() {
                return Err(emptied(name));
            }
        }
        self.check_handlers(&settings.handlers)?;
        let is_reread =
            |name: &String| REREAD.contains(&name.as_str()) || name.starts_with(tables::PREFIX);
        let mut changed = layers.differing_from(&self.latest)?;
        changed.retain(is_reread);
        let mut need_restart = layers.differing_from(&self.started)?;
        need_restart.retain(|name| !is_reread(name));
        let reread = Reread {
            changed,
            need_restart,
            overridden: layers.overridden(&REREAD)?,
            warnings: settings.warnings.clone(),
        };
        self.updates.publish(settings);
        self.latest = layers;
        Ok(reread)
    }

    fn check_handlers(&self, handlers: &Handlers) -> Result<(), SettingError> {
        // A running worker has the slots of its start, whatever the file says now.
        handlers.check_concurrency(worker_concurrency(&self.started)?)?;
        for HandlerSettings { name, kind, .. } in handlers.iter() {
            let key = tables::full_key(name, "secret");
            let was_set = |text: &str| !text.is_empty();
            let is_unsigned = matches!(kind, HandlerKind::Http(http) if http.signer.secrets() == 0);
            if is_unsigned && self.latest.handlers().text(&key).is_some_and(was_set) {
                return Err(emptied(&key));
            }
        }
        Ok(())
    }
}

fn emptied(key: &str) -> SettingError {
    let problem = "it was set and is empty now; only a restart turns it off";
    layers::invalid(key, String::new(), problem)
}

#[cfg(test)]
mod tests;
