//! The handlers that clients can submit jobs for, as the settings name them now.

use std::{collections::BTreeMap, sync::Arc};

use storm_shared::{
    config::{Handlers, Settings},
    live::Live,
    models::HandlerName,
    services::ssrf::Policy,
};

use crate::{
    body, handler_watch::Loads, metrics::Metrics, reply::Problem, validation::HandlerForm,
};

/// The largest payload of the report, in bytes.
pub const MAX_REPORT_PAYLOAD: usize = body::LIMIT;

/// The handlers by name. Clones share them, and a reread of the settings replaces them.
#[derive(Clone)]
pub struct KnownHandlers(Live<Known>);

struct Known {
    settings: Handlers,
    /// Those of the settings, and the report.
    forms: BTreeMap<HandlerName, Arc<HandlerForm>>,
}

impl KnownHandlers {
    /// Those of `settings`, and of those that are reread later. `metrics` show them.
    pub fn follow(settings: &Settings, metrics: Metrics) -> Self {
        let policy = settings.callback.policy.clone();
        let known = Known::of(&settings.handlers, &policy);
        metrics.know_handlers(known.forms.keys());
        let live = Live::new(known);
        let reread = live.clone();
        settings.updates.pass_to(move |settings| {
            // The policy stays that of the start.
            let known = Known::of(&settings.handlers, &policy);
            metrics.know_handlers(known.forms.keys());
            reread.set(known);
        });
        Self(live)
    }

    /// The form of a submission for the handler of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn form(&self, name: &str) -> Result<Arc<HandlerForm>, Problem> {
        let known = self.0.get();
        let name: Option<HandlerName> = name.parse().ok();
        let form = name.and_then(|name| known.forms.get(&name));
        form.cloned()
            .ok_or_else(|| Problem::unknown_handler(known.forms.keys()))
    }

    /// Checks the `handler` of a filter: a mistyped name would find nothing, without a word. One
    /// that was removed from the settings is known while it has a `load`: its jobs wait until they
    /// are cancelled.
    ///
    /// # Errors
    /// There is no such handler in the settings of now, and none with jobs to do.
    pub fn check_filter(
        &self,
        name: Option<&HandlerName>,
        load: Option<&Loads>,
    ) -> Result<(), Problem> {
        let known = self.0.get();
        let has_load = |name| load.is_some_and(|load| load.contains_key(name));
        match name {
            Some(name) if !known.forms.contains_key(name) && !has_load(name) => {
                Err(Problem::unknown_handler_filter(known.forms.keys()))
            }
            _ => Ok(()),
        }
    }

    /// The handlers of the settings of now, without the built-in report.
    pub fn current(&self) -> Handlers {
        self.0.get().settings.clone()
    }
}

impl Known {
    fn of(settings: &Handlers, policy: &Policy) -> Self {
        let named = settings
            .iter()
            .map(|one| (one.name.clone(), one.max_payload));
        let report = (HandlerName::REPORT, MAX_REPORT_PAYLOAD);
        let forms = named.chain([report]).map(|(name, max_payload)| {
            let form = HandlerForm::new(name.clone(), max_payload, policy.clone());
            (name, Arc::new(form))
        });
        Self {
            settings: settings.clone(),
            forms: forms.collect(),
        }
    }
}
