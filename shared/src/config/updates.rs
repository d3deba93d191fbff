//! Tells the parts of a service of settings that were reread while it runs.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Settings;

/// Passes reread settings on to the parts that use them. Clones share it.
///
/// Only the values that [`REREAD`](super::REREAD) names, and the handlers, may be taken from what
/// it passes on.
#[derive(Clone, Default)]
pub struct Updates {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The settings that were reread last, for a part that starts later.
    latest: Option<Settings>,
    parts: Vec<Part>,
}

/// Takes the settings that a part of the service uses.
type Part = Box<dyn Fn(&Settings) + Send>;

impl Updates {
    /// Calls `part` with the settings, each time that they are reread. If they have been reread
    /// already, calls it now, too: the part was made from older ones.
    pub fn pass_to(&self, part: impl Fn(&Settings) + Send + 'static) {
        let mut state = self.lock();
        if let Some(settings) = &state.latest {
            part(settings);
        }
        state.parts.push(Box::new(part));
    }

    /// Passes these settings on. On return every part uses them.
    pub(super) fn publish(&self, settings: Settings) {
        let mut state = self.lock();
        for part in &state.parts {
            part(&settings);
        }
        state.latest = Some(settings);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Updates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Updates").finish_non_exhaustive()
    }
}
