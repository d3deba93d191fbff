//! What a job waits for before its handler does its work.

use crate::services::store::Breakers;

/// The handler of a job whose work is to be done.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct ItsHandler<'a> {
    pub(in super::super) name: &'a str,
    /// The workers that serve it.
    pub(in super::super) workers: u32,
    /// Its circuit breakers in them.
    pub(in super::super) breakers: Breakers,
}

impl ItsHandler<'_> {
    /// Why the handler holds back a job that is in the table, and until when. `None` if it does
    /// not. No worker may claim the job before `until`, as it is shown.
    pub(super) fn held_back(
        &self,
        until: Option<&str>,
        is_parked: bool,
    ) -> Option<(String, Option<String>)> {
        let (name, scheduled) = (self.name, until.map(str::to_owned));
        if self.workers == 0 {
            let detail = format!(
                "No running worker serves the handler `{name}`: the job waits until one starts \
                 that has it in its settings."
            );
            return Some((detail, scheduled));
        }
        // The time of a retry is the later one, as a rule, and says more.
        if scheduled.is_some() && !is_parked {
            return None;
        }
        if self.breakers.hold_all(self.workers) {
            let probe = self.breakers.until.map(|at| format!("{at:.3}"));
            let next = match probe {
                Some(_) => "is due at the time in `until`",
                None => "is under way",
            };
            let detail = format!(
                "The circuit breaker of the handler `{name}` is open: the handler fails. A probe, \
                 one job, {next}; the others wait until one succeeds."
            );
            // Both are UTC with milliseconds, so the later one is the greater text.
            return Some((detail, probe.max(scheduled)));
        }
        scheduled.is_some().then(|| {
            let detail = format!(
                "The job is parked: in its worker the circuit breaker of the handler `{name}` was \
                 open, or the worker lacked what an attempt needs."
            );
            (detail, scheduled)
        })
    }

    /// Why a due job that is not held back waits.
    pub(super) fn has_no_slot(&self) -> String {
        let Self {
            name,
            workers,
            breakers,
        } = self;
        let mut detail =
            format!("The job waits for a worker with a free slot of the handler `{name}`.");
        let open = breakers.open + breakers.half_open;
        if open > 0 {
            let more = format!(" In {open} of {workers} workers its circuit breaker is open.");
            detail.push_str(&more);
        }
        if breakers.unknown > 0 {
            detail.push_str(" If the handler fails, the job waits until it works again.");
        }
        detail
    }
}

#[cfg(test)]
mod tests {
    use super::{Breakers, ItsHandler};

    const PROBE: &str = "2026-11-24T08:00:30.000Z";
    const SOON: &str = "2026-11-24T08:00:01.000Z";
    const LATE: &str = "2026-11-24T08:59:00.000Z";

    /// In two workers: one that has the breaker in each of these states.
    fn pdf([open, half_open, unknown]: [u32; 3]) -> ItsHandler<'static> {
        let until = (open > 0).then(|| PROBE.parse().unwrap());
        ItsHandler {
            name: "pdf",
            workers: 2,
            breakers: Breakers {
                open,
                half_open,
                unknown,
                until,
            },
        }
    }

    #[test]
    fn a_breaker_that_is_open_in_every_worker_holds_the_job_back_until_the_probe() {
        for (until, states, says, then) in [
            (None, [2, 0, 0], "is due at", Some(PROBE)),
            (Some(SOON), [2, 0, 0], "is due at", Some(PROBE)),
            (Some(LATE), [2, 0, 0], "is due at", Some(LATE)),
            (None, [0, 2, 0], "under way", None),
            (None, [1, 1, 0], "is open", Some(PROBE)),
            (Some(SOON), [0, 0, 0], "is parked", Some(SOON)),
            (Some(SOON), [1, 0, 0], "is parked", Some(SOON)),
        ] {
            let (detail, at) = pdf(states).held_back(until, until.is_some()).unwrap();
            assert!(detail.contains(says), "{states:?}: {detail}");
            assert_eq!(at.as_deref(), then, "{states:?}");
        }
        let retry = pdf([2, 0, 0]).held_back(Some(SOON), false);
        assert_eq!(retry, None, "the retry is not due");
    }

    #[test]
    fn a_worker_whose_breaker_is_closed_or_unknown_may_take_the_job() {
        for (states, says) in [
            ([0, 0, 0], "the handler `pdf`."),
            ([1, 0, 0], "In 1 of 2 workers its circuit breaker is open."),
            ([1, 0, 1], "If the handler fails"),
            ([0, 0, 2], "If the handler fails"),
        ] {
            let pdf = pdf(states);
            assert_eq!(pdf.held_back(None, false), None);
            assert!(pdf.has_no_slot().contains(says), "{}", pdf.has_no_slot());
        }
    }
}
