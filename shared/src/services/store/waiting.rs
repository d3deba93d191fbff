//! Why an unfinished job is not done, by what is stored of it. Pure rules, no SQL.

mod of_handler;
mod stored;

use jiff::{SignedDuration, Timestamp};

pub(super) use self::{of_handler::ItsHandler, stored::Stored};
use super::job::Work;
use crate::models::{Attempt, WaitReason, WaitingFor};

/// A worker that has sent no heartbeat for this long is silent: at least ten are missing. Its lease
/// may last longer, and is judged by other workers alone.
const SILENCE: SignedDuration = SignedDuration::from_secs(5);

/// What is stored of an unfinished job or redelivery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unfinished<'a> {
    pub(super) work: Work,
    pub(super) place: Place<'a>,
    /// Claims so far.
    pub(super) claims: u32,
    /// Claims lost with their workers.
    pub(super) lost_claims: u32,
    /// The last attempt with a known outcome.
    pub(super) last_attempt: Option<&'a Attempt>,
    /// What operators have paused of what it needs, if they have.
    pub(super) paused: Option<PausedPart>,
    /// Its handler, if that is not the report and its work is to be done.
    pub(super) handler: Option<ItsHandler<'a>>,
}

/// What an operator has paused that holds a job back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PausedPart {
    /// All claims.
    Everything,
    /// The callbacks to its receiver.
    Receiver,
}

impl PausedPart {
    /// A pause of everything hides one of the receiver.
    pub(super) fn of(is_everything: bool, is_receiver: bool) -> Option<Self> {
        if is_everything {
            Some(Self::Everything)
        } else {
            is_receiver.then_some(Self::Receiver)
        }
    }
}

/// Where an unfinished job is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// In the table. No worker may claim it before `until`, as it is shown; `None` if it is due, or
    /// left to its notification first.
    Table {
        until: Option<&'a str>,
        is_parked: bool,
    },
    /// Claimed by `owner`, which renewed its lease at `renewed_at` by its wall clock; `None` if it
    /// has no lease.
    Worker {
        owner: &'a str,
        renewed_at: Option<&'a str>,
    },
}

/// What the job waits for at `now`, by the wall clock.
pub(super) fn waiting_for(job: &Unfinished<'_>, now: Timestamp) -> WaitingFor {
    let Unfinished { claims, .. } = *job;
    let subject = match job.work {
        Work::Job => "job",
        Work::Redelivery => "redelivery",
    };
    // Until when is up to the operator, whatever else it waits for.
    // The work of a handler goes on while the receiver is paused.
    let paused_part = job
        .paused
        .filter(|part| job.handler.is_none() || *part == PausedPart::Everything);
    if let (Place::Table { .. }, Some(part)) = (job.place, paused_part) {
        return WaitingFor {
            reason: WaitReason::Paused,
            detail: paused(part),
            until: None,
        };
    }
    if let (Place::Table { until, is_parked }, Some(handler)) = (job.place, job.handler)
        && let Some((detail, until)) = handler.held_back(until, is_parked)
    {
        return WaitingFor {
            reason: WaitReason::Handler,
            detail,
            until,
        };
    }
    let (reason, detail, until) = match job.place {
        Place::Worker { owner, renewed_at } => match renewed_at {
            None => (
                WaitReason::Lease,
                format!("The worker that held the {subject} is gone: another one reclaims it."),
                None,
            ),
            Some(at) if is_silent(at, now) => (
                WaitReason::Lease,
                format!(
                    "Worker {owner} holds the {subject} under claim {claims} and has sent no heartbeat \
                     since {at}: the {subject} is reclaimed when its lease ends."
                ),
                None,
            ),
            Some(_) => (
                WaitReason::Running,
                format!("Worker {owner} works on the {subject} under claim {claims}."),
                None,
            ),
        },
        Place::Table {
            until: Some(until),
            is_parked: true,
        } => (
            WaitReason::Receiver,
            format!(
                "The {subject} is parked: its receiver is overloaded or down, or the worker lacked \
                 what an attempt needs."
            ),
            Some(until),
        ),
        Place::Table {
            until: Some(until), ..
        } => (WaitReason::Retry, retry(job.last_attempt), Some(until)),
        Place::Table { .. } if job.lost_claims > 0 => (
            WaitReason::Quarantine,
            format!(
                "{} it held the {subject}: the {subject} waits for a worker that can run it beside \
                 fewer jobs.",
                lost_workers(job.lost_claims)
            ),
            None,
        ),
        Place::Table { .. } => (
            WaitReason::Capacity,
            job.handler.map_or_else(
                || format!("The {subject} waits for a worker with a free slot."),
                |handler| handler.has_no_slot(),
            ),
            None,
        ),
    };
    WaitingFor {
        reason,
        detail,
        until: until.map(str::to_owned),
    }
}

/// Whether a worker that renewed its lease at `renewed_at` has been silent since. A clock that was
/// set back, and a time that was edited into none, make nobody silent.
fn is_silent(renewed_at: &str, now: Timestamp) -> bool {
    let renewed_at: Option<Timestamp> = renewed_at.parse().ok();
    let since = renewed_at.map(|at| now.duration_since(at));
    since.is_some_and(|since| since > SILENCE)
}

fn paused(part: PausedPart) -> String {
    match part {
        PausedPart::Everything => "An operator has paused the service: no worker claims a job.",
        PausedPart::Receiver => "An operator has paused the callbacks to its receiver.",
    }
    .to_owned()
}

fn retry(last: Option<&Attempt>) -> String {
    let Some(Attempt {
        number,
        class,
        error,
        ..
    }) = last
    else {
        return "The next attempt is scheduled.".to_owned();
    };
    let error = error.as_deref().unwrap_or(class.as_str());
    format!("Attempt {number} failed ({error}): the next one is scheduled.")
}

fn lost_workers(count: u32) -> String {
    match count {
        1 => "A worker crashed or lost its lease while".to_owned(),
        _ => format!("{count} workers in a row crashed or lost their leases, each while"),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{ItsHandler, PausedPart, Place, Unfinished, Work, waiting_for};
    use crate::models::{Attempt, AttemptClass, Stage, WaitReason};
    use crate::services::store::Breakers;

    const OWNER: &str = "3f0a7c52-6a4f-4f0e-8a53-0c5f3a1b2c3d";

    fn now() -> Timestamp {
        "2026-11-24T08:00:00Z".parse().unwrap()
    }

    fn job(place: Place<'_>) -> Unfinished<'_> {
        Unfinished {
            work: Work::Job,
            place,
            claims: 2,
            lost_claims: 0,
            last_attempt: None,
            paused: None,
            handler: None,
        }
    }

    fn pdf(workers: u32) -> ItsHandler<'static> {
        ItsHandler {
            name: "pdf",
            workers,
            breakers: Breakers::default(),
        }
    }

    fn held(renewed_at: Option<&str>) -> Place<'_> {
        Place::Worker {
            owner: OWNER,
            renewed_at,
        }
    }

    #[test]
    fn a_held_job_runs_as_long_as_its_worker_sends_heartbeats() {
        for (renewed_at, reason) in [
            (Some("2026-11-24T07:59:59.500Z"), WaitReason::Running),
            (Some("2026-11-24T07:59:55.000Z"), WaitReason::Running),
            (Some("2026-11-24T07:59:54.999Z"), WaitReason::Lease),
            (Some("2026-11-24T09:00:00.000Z"), WaitReason::Running),
            (Some("no time"), WaitReason::Running),
            (None, WaitReason::Lease),
        ] {
            let waiting = waiting_for(&job(held(renewed_at)), now());
            assert_eq!(waiting.reason, reason, "{renewed_at:?}");
        }
    }

    #[test]
    fn the_detail_of_a_lease_names_the_worker_the_claim_and_the_last_heartbeat() {
        let waiting = waiting_for(&job(held(Some("2026-11-24T07:59:54.000Z"))), now());
        let named = format!("Worker {OWNER} holds the job under claim 2");
        assert!(waiting.detail.starts_with(&named), "{}", waiting.detail);
        assert!(waiting.detail.contains("since 2026-11-24T07:59:54.000Z:"));
        assert_eq!(waiting.until, None);
    }

    #[test]
    fn the_detail_of_a_retry_says_what_came_of_the_last_attempt() {
        let place = Place::Table {
            until: Some("2026-11-24T08:00:04.000Z"),
            is_parked: false,
        };
        let failed = |error: Option<&str>| Attempt {
            number: 2,
            stage: Stage::Callback,
            started_at: String::new(),
            duration_ms: 7,
            class: AttemptClass::Status,
            status: Some(500),
            error: error.map(str::to_owned),
        };
        for (last_attempt, detail) in [
            (
                Some(failed(Some("HTTP status 500"))),
                "Attempt 2 failed (HTTP status 500): the next one is scheduled.",
            ),
            (
                Some(failed(None)),
                "Attempt 2 failed (status): the next one is scheduled.",
            ),
            (None, "The next attempt is scheduled."),
        ] {
            let job = Unfinished {
                last_attempt: last_attempt.as_ref(),
                ..job(place)
            };
            assert_eq!(waiting_for(&job, now()).detail, detail);
        }
    }

    #[test]
    fn what_waits_for_the_work_of_a_handler_says_nothing_of_its_receiver() {
        let until = Some("2026-11-24T08:00:04.000Z");
        let reason = |until, is_parked, workers, lost_claims| {
            let place = Place::Table { until, is_parked };
            let waiting = waiting_for(
                &Unfinished {
                    handler: Some(pdf(workers)),
                    lost_claims,
                    paused: Some(PausedPart::Receiver),
                    ..job(place)
                },
                now(),
            );
            assert_eq!(waiting.until.as_deref(), until);
            assert!(!waiting.detail.contains("receiver"), "{}", waiting.detail);
            if waiting.reason == WaitReason::Capacity {
                let said = "The job waits for a worker with a free slot of the handler `pdf`.";
                assert!(waiting.detail.starts_with(said), "{}", waiting.detail);
            }
            waiting
        };
        for (until, is_parked, lost_claims, served) in [
            (None, false, 0, WaitReason::Capacity),
            (None, false, 1, WaitReason::Quarantine),
            (until, false, 0, WaitReason::Retry),
            (until, true, 0, WaitReason::Handler),
        ] {
            assert_eq!(reason(until, is_parked, 1, lost_claims).reason, served);
            let unserved = reason(until, is_parked, 0, lost_claims);
            assert_eq!(unserved.reason, WaitReason::Handler);
            let said = "No running worker serves the handler `pdf`";
            assert!(unserved.detail.starts_with(said), "{}", unserved.detail);
        }
        let place = Place::Table {
            until: None,
            is_parked: false,
        };
        let paused = Unfinished {
            handler: Some(pdf(1)),
            paused: Some(PausedPart::Everything),
            ..job(place)
        };
        assert_eq!(waiting_for(&paused, now()).reason, WaitReason::Paused);
    }

    #[test]
    fn a_suspect_says_how_many_workers_it_has_cost() {
        let place = Place::Table {
            until: None,
            is_parked: false,
        };
        for (lost_claims, begin) in [(1, "A worker crashed"), (3, "3 workers in a row crashed")] {
            let suspect = Unfinished {
                lost_claims,
                work: Work::Redelivery,
                ..job(place)
            };
            let waiting = waiting_for(&suspect, now());
            assert_eq!(waiting.reason, WaitReason::Quarantine);
            assert!(waiting.detail.starts_with(begin), "{}", waiting.detail);
            assert!(waiting.detail.contains("the redelivery"));
        }
    }
}
