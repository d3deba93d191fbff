//! The metrics of handlers. Each series has the name of one as a label.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use storm_shared::{models::HandlerName, services::store::HandlerLoad};

use super::Accepted;

/// Clones share them.
///
/// There are as many series as the settings name handlers, and jobs in the store: the series of
/// others end, so that rereads of the settings can't add to them without bound.
#[derive(Clone, Default)]
pub(super) struct HandlerMetrics {
    accepted: Family<AcceptedLabels, Counter>,
    jobs: Family<StateLabels, Gauge>,
    workers: Family<Label, Gauge>,
    names: Arc<Mutex<Names>>,
}

/// The handlers that have series.
#[derive(Default)]
struct Names {
    /// Those of the settings, and the report.
    known: BTreeSet<HandlerName>,
    /// Those with a load.
    loaded: BTreeSet<HandlerName>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Name(HandlerName);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    handler: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AcceptedLabels {
    handler: Name,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    handler: Name,
    state: &'static str,
}

impl HandlerMetrics {
    /// Counts a submission for `handler` that was accepted.
    pub(super) fn accepted(&self, handler: &HandlerName, kind: Accepted) {
        self.accepted
            .get_or_create(&AcceptedLabels::of(handler, kind))
            .inc();
    }

    /// The settings name these handlers now.
    pub(super) fn know<'a>(&self, now: impl Iterator<Item = &'a HandlerName>) {
        let now: BTreeSet<_> = now.cloned().collect();
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        for kind in Accepted::ALL {
            for gone in names.known.difference(&now) {
                self.accepted.remove(&AcceptedLabels::of(gone, kind));
            }
            // A series that begins with its first increment hides that from `rate`.
            for handler in &now {
                let labels = AcceptedLabels::of(handler, kind);
                drop(self.accepted.get_or_create(&labels));
            }
        }
        names.known = now;
    }

    /// Handlers beside the report have this load now; other known ones have none.
    pub(super) fn load(&self, load: &BTreeMap<HandlerName, HandlerLoad>) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let known = names.known.iter().chain(load.keys());
        let now: BTreeSet<_> = known
            .filter(|handler| **handler != HandlerName::REPORT)
            .cloned()
            .collect();
        for gone in names.loaded.difference(&now) {
            for (state, _) in states(HandlerLoad::default()) {
                self.jobs.remove(&StateLabels::of(gone, state));
            }
            self.workers.remove(&Label::of(gone));
        }
        for handler in &now {
            let load = load.get(handler).copied().unwrap_or_default();
            for (state, jobs) in states(load) {
                let gauge = self.jobs.get_or_create(&StateLabels::of(handler, state));
                gauge.set(jobs.into());
            }
            let workers = self.workers.get_or_create(&Label::of(handler));
            workers.set(load.workers.into());
        }
        names.loaded = now;
    }

    pub(super) fn register(&self, own: &mut Registry) {
        own.register(
            "accepted_jobs",
            "Submissions answered 202, by handler: new jobs, and repeats of earlier submissions",
            self.accepted.clone(),
        );
        own.register(
            "handler_jobs",
            "Jobs whose work is to be done, by handler, as of the last count; at most 10000 each",
            self.jobs.clone(),
        );
        own.register(
            "handler_workers",
            "Workers that serve the handler",
            self.workers.clone(),
        );
    }
}

/// The jobs of a handler by what they do.
fn states(load: HandlerLoad) -> [(&'static str, u32); 3] {
    [
        ("due", load.due),
        ("delayed", load.waiting.saturating_sub(load.due)),
        ("running", load.running),
    ]
}

impl Label {
    fn of(handler: &HandlerName) -> Self {
        let handler = Name(handler.clone());
        Self { handler }
    }
}

impl AcceptedLabels {
    fn of(handler: &HandlerName, kind: Accepted) -> Self {
        Self {
            handler: Name(handler.clone()),
            kind: kind.name(),
        }
    }
}

impl StateLabels {
    fn of(handler: &HandlerName, state: &'static str) -> Self {
        Self {
            handler: Name(handler.clone()),
            state,
        }
    }
}

impl EncodeLabelValue for Name {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.0.as_str().encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::{
        models::HandlerName,
        services::store::{Breakers, HandlerLoad},
    };

    use super::super::{Accepted, Metrics};

    #[test]
    fn the_series_of_a_handler_end_with_it_and_its_jobs() {
        let metrics = Metrics::new();
        let [pdf, old] = ["pdf", "old"].map(|name| name.parse::<HandlerName>().unwrap());
        metrics.know_handlers([HandlerName::REPORT, pdf.clone()].iter());
        metrics.accepted(&pdf, Accepted::New);
        let load = HandlerLoad {
            breakers: Breakers::default(),
            waiting: 5,
            due: 3,
            running: 2,
            workers: 1,
        };
        // The settings no longer have it, and there are jobs for it.
        metrics.handlers_load(&[(old, load)].into());
        let text = metrics.render();
        for line in [
            r#"storm_api_accepted_jobs_total{handler="pdf",kind="new"} 1"#,
            r#"storm_api_accepted_jobs_total{handler="pdf",kind="replayed"} 0"#,
            r#"storm_api_accepted_jobs_total{handler="report",kind="new"} 0"#,
            r#"storm_api_handler_jobs{handler="old",state="due"} 3"#,
            r#"storm_api_handler_jobs{handler="old",state="delayed"} 2"#,
            r#"storm_api_handler_jobs{handler="old",state="running"} 2"#,
            r#"storm_api_handler_jobs{handler="pdf",state="running"} 0"#,
            r#"storm_api_handler_workers{handler="old"} 1"#,
            r#"storm_api_handler_workers{handler="pdf"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        metrics.know_handlers([HandlerName::REPORT].iter());
        metrics.handlers_load(&[].into());
        let text = metrics.render();
        for gone in [r#"handler="pdf""#, r#"handler="old""#] {
            assert!(!text.contains(gone), "{text}");
        }
        assert!(text.contains(r#"accepted_jobs_total{handler="report",kind="new"} 0"#));
    }
}
