//! Rule `delivered`: a job, or a redelivery, is `COMPLETED` only after its receiver answered `2xx`
//! to the correct body, under the claim that completed it.

use storm_shared::{
    models::{Records, ReportName, ReportSpec, Status},
    services::report::{Report, expected},
};

use super::{
    index::JobHistory,
    not_later,
    series::{Series, is_claim},
};
use crate::chaos::history::{HistoryLimits, Received, Row, Submitted};

pub(super) fn check(job: &JobHistory<'_>, _: &HistoryLimits) -> Vec<String> {
    let mut found = wrong_bytes(job);
    match job.row {
        Some(row) => {
            found.extend(uncalled_for(job, row));
            if row.called_back {
                found.extend(job.series().filter_map(|it| undelivered(job, it)));
            }
            if row.state.status == Status::Completed {
                found.extend(without_a_time(row));
                found.extend(wrong_result(job));
            }
        }
        // An accepted job without a row is lost: that is reported by the rule `ended`.
        None if job.acceptances.is_empty() && !job.callbacks.is_empty() => {
            found.push("a callback was delivered for this id, and it has no row".to_owned());
        }
        None => {}
    }
    found
}

fn wrong_bytes(job: &JobHistory<'_>) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(wrong) = job.callbacks.iter().find(|callback| !callback.right) {
        found.push(format!(
            "the callback at {:.3} is not the requested report",
            wrong.at
        ));
    }
    // Promise 3: a repeat has the same bytes. Only the body is compared, because every attempt has
    // its own timestamp and signature in the headers.
    let mut digests = job.callbacks.iter().map(|callback| &callback.body_sha256);
    if let Some(first) = digests.next()
        && digests.any(|digest| digest != first)
    {
        found.push("the bodies of its duplicate deliveries differ".to_owned());
    }
    found
}

fn uncalled_for(job: &JobHistory<'_>, row: &Row) -> Option<String> {
    if row.called_back {
        None
    } else if !job.callbacks.is_empty() {
        Some("a callback was delivered for a job without a callback URL".to_owned())
    } else if !job.redeliveries.is_empty() {
        Some("a job without a callback URL was redelivered".to_owned())
    } else {
        None
    }
}

fn without_a_time(row: &Row) -> Option<String> {
    let without = "it is COMPLETED without a completion time";
    row.completed_at.is_none().then(|| without.to_owned())
}

/// A row that became `COMPLETED` before its receiver answered `2xx`.
fn undelivered(job: &JobHistory<'_>, series: &Series<'_>) -> Option<String> {
    // A missing transition is reported by the rule `moves`.
    let end = series.end_as(Status::Completed)?;
    let claimed = series
        .moves
        .iter()
        .find(|moved| is_claim(moved) && moved.after.claim == end.after.claim);
    let claimed = claimed?.earliest();
    // A receiver reads the clock before it responds, and the worker completes the row only after
    // the response. What an earlier claim delivered, or an earlier series, does not count: the
    // worker that completes it has heard the answer itself.
    let delivered = job.callbacks.iter().any(|callback| {
        is_success(callback) && not_later(claimed, callback.at) && not_later(callback.at, end.at)
    });
    (!delivered).then(|| {
        series.name(&format!(
            "it is COMPLETED since {:.3}, and no receiver had answered 2xx by then to claim {}",
            end.at, end.after.claim
        ))
    })
}

/// A stored result, as a polling client would read it, that is not the requested report.
fn wrong_result(job: &JobHistory<'_>) -> Option<String> {
    // That of a handler is judged by the rule `work`.
    if job.handler().is_some() {
        return None;
    }
    let spec = spec_of(job.acceptances.first().copied().or(job.request)?)?;
    let stored = job.result()?; // a missing result is reported by the rule `moves`
    let right = serde_json::from_str::<Report>(stored).is_ok_and(|it| it == expected(&spec));
    (!right).then(|| "the stored result is not the requested report".to_owned())
}

fn spec_of(submitted: &Submitted) -> Option<ReportSpec> {
    Some(ReportSpec {
        report_name: ReportName::try_from(submitted.report_name.clone()).ok()?,
        records: Records::try_from(submitted.records).ok()?,
    })
}

/// Whether the body was correct and the response was `2xx`.
pub(super) fn is_success(callback: &Received) -> bool {
    callback.right && matches!(callback.answered, Some(200..=299))
}

#[cfg(test)]
mod tests {
    use storm_shared::models::Status;

    use super::super::{
        CheckRule,
        example::{Example, POLLED, QUICK, REPEATED, STEP, Story, UNANSWERED, id},
    };
    use crate::chaos::history::{Received, Record};

    fn completed_after(answered: Option<u16>) -> Story {
        let story = Story::of(700).accepted().claimed_by("a");
        story.called(answered).completed()
    }

    fn change_callbacks(of: u64, mut change: impl FnMut(&mut Received)) -> Example {
        Example::changed(|record| match record {
            Record::Received(received) if received.id == id(of) => change(received),
            _ => {}
        })
    }

    #[test]
    fn a_completed_job_was_delivered() {
        for answered in [None, Some(199), Some(300), Some(500)] {
            Example::with(completed_after(answered)).assert_violation(
                CheckRule::Delivered,
                id(700),
                "no receiver had answered 2xx",
            );
        }
        for answered in [200, 204, 299] {
            Example::with(completed_after(Some(answered))).assert_passes();
        }
        let undelivered = Story::of(700).accepted().claimed_by("a").completed();
        Example::with(undelivered).assert_violation(
            CheckRule::Delivered,
            id(700),
            "no receiver had answered",
        );
    }

    #[test]
    fn a_job_completes_after_its_delivery() {
        change_callbacks(QUICK, |received| received.at += STEP * 2).assert_violation(
            CheckRule::Delivered,
            id(QUICK),
            "no receiver had answered 2xx by then",
        );
    }

    #[test]
    fn a_completed_job_has_a_completion_time() {
        Example::changed(|record| match record {
            Record::Row(row) if row.id == id(QUICK) => row.completed_at = None,
            _ => {}
        })
        .assert_violation(CheckRule::Delivered, id(QUICK), "without a completion time");
    }

    #[test]
    fn a_callback_has_the_correct_body() {
        let mut story = Story::of(700).accepted().claimed_by("a").called(Some(200));
        if let Some(Record::Received(received)) = story.records.last_mut() {
            received.right = false;
        }
        // The correct body follows, so that only this rule is violated.
        let story = story.lost().claimed_by("b").called(Some(200));
        Example::with(story.completed()).assert_violation(
            CheckRule::Delivered,
            id(700),
            "not the requested report",
        );
    }

    #[test]
    fn an_incorrect_body_is_no_delivery() {
        let mut story = Story::of(700).accepted().claimed_by("a").called(Some(200));
        if let Some(Record::Received(received)) = story.records.last_mut() {
            received.right = false;
        }
        let verdict = Example::with(story.completed()).verdict();
        // The body is incorrect, and no correct one was delivered.
        let rules: Vec<_> = verdict.by_rule().into_iter().collect();
        assert_eq!(rules, [(CheckRule::Delivered, 2)]);
    }

    #[test]
    fn a_duplicate_has_the_same_body() {
        let mut digests = ["ab", "ac"].into_iter();
        change_callbacks(REPEATED, |received| {
            received.body_sha256 = digests.next().unwrap().to_owned();
        })
        .assert_violation(
            CheckRule::Delivered,
            id(REPEATED),
            "duplicate deliveries differ",
        );
    }

    #[test]
    fn no_callback_is_delivered_for_an_id_without_a_row() {
        let story = Story::nothing_of(700).unanswered().called(Some(200));
        Example::with(story).assert_violation(CheckRule::Delivered, id(700), "has no row");
    }

    #[test]
    fn no_callback_is_delivered_for_a_job_without_a_callback_url() {
        let story = Story::of(700).without_callback_url().accepted();
        let story = story.claimed_by("a").called(Some(200)).completed();
        Example::with(story).assert_violation(
            CheckRule::Delivered,
            id(700),
            "without a callback URL",
        );
    }

    #[test]
    fn the_stored_result_is_the_requested_report() {
        for job in [POLLED, UNANSWERED] {
            let others = Story::nothing_of(701).result();
            Example::changed(|record| match record {
                Record::Row(row) if row.id == id(job) => row.state.result = Some(others.clone()),
                Record::Transition(moved)
                    if moved.id == id(job) && moved.after.status == Status::Completed =>
                {
                    moved.after.result = Some(others.clone());
                }
                _ => {}
            })
            .assert_violation(CheckRule::Delivered, id(job), "the stored result");
        }
    }
}
