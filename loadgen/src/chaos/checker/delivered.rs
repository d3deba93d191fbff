//! A job is `COMPLETED` when its receiver said so to the right bytes, and never otherwise.

use storm_shared::{
    models::{Records, ReportName, ReportSpec, Status},
    services::report::{Report, expected},
};

use super::{index::Job, not_later};
use crate::chaos::history::{Limits, Received, Row, Told};

pub(super) fn check(job: &Job<'_>, _: &Limits) -> Vec<String> {
    let mut found = wrong_bytes(job);
    match job.row {
        Some(row) => {
            found.extend(uncalled_for(job, row));
            if row.held.status == Status::Completed {
                found.extend(unheard(job, row));
                found.extend(wrong_result(job, row));
            }
        }
        // A promised job without a row is lost, which is another rule's.
        None if job.promises.is_empty() && !job.callbacks.is_empty() => {
            found.push("a receiver was called for this id, and it has no row".to_owned());
        }
        None => {}
    }
    found
}

fn wrong_bytes(job: &Job<'_>) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(wrong) = job.callbacks.iter().find(|callback| !callback.right) {
        found.push(format!(
            "the callback at {:.3} is not the report that was ordered",
            wrong.at
        ));
    }
    let mut digests = job.callbacks.iter().map(|callback| &callback.body_sha256);
    if let Some(first) = digests.next()
        && digests.any(|digest| digest != first)
    {
        found.push("its callbacks don't all have the same bytes".to_owned());
    }
    found
}

fn uncalled_for(job: &Job<'_>, row: &Row) -> Option<String> {
    (!row.called_back && !job.callbacks.is_empty())
        .then(|| "a receiver was called for a job without a callback URL".to_owned())
}

/// A job that is called `COMPLETED` though its receiver had not answered 2xx by then.
fn unheard(job: &Job<'_>, row: &Row) -> Option<String> {
    let Some(completed_at) = row.completed_at else {
        return Some("it is COMPLETED, and not said since when".to_owned());
    };
    let heard = job
        .callbacks
        .iter()
        .any(|callback| is_success(callback) && not_later(callback.at, completed_at));
    (row.called_back && !heard).then(|| {
        format!("it is COMPLETED since {completed_at:.3}, and no receiver had answered 2xx by then")
    })
}

/// What a client that polls would read, where it is not the report that it asked for.
fn wrong_result(job: &Job<'_>, row: &Row) -> Option<String> {
    let spec = spec_of(job.promises.first().copied().or(job.request)?)?;
    let stored = row.held.result.as_deref()?; // its absence is a wrong move
    let right = serde_json::from_str::<Report>(stored).is_ok_and(|it| it == expected(&spec));
    (!right).then(|| "the stored result is not the report that was ordered".to_owned())
}

fn spec_of(told: &Told) -> Option<ReportSpec> {
    Some(ReportSpec {
        report_name: ReportName::try_from(told.report_name.clone()).ok()?,
        records: Records::try_from(told.records).ok()?,
    })
}

/// Whether a callback was answered with 2xx to the right bytes.
pub(super) fn is_success(callback: &Received) -> bool {
    callback.right && matches!(callback.answered, Some(200..=299))
}

#[cfg(test)]
mod tests {
    use storm_shared::models::Status;

    use super::super::{
        Rule,
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
    fn a_completed_job_was_heard_of() {
        for answered in [None, Some(199), Some(300), Some(500)] {
            Example::with(completed_after(answered)).is_refused(
                Rule::Delivered,
                id(700),
                "no receiver had answered 2xx",
            );
        }
        for answered in [200, 204, 299] {
            Example::with(completed_after(Some(answered))).is_accepted();
        }
        let unheard = Story::of(700).accepted().claimed_by("a").completed();
        Example::with(unheard).is_refused(Rule::Delivered, id(700), "no receiver had answered");
    }

    #[test]
    fn a_job_is_completed_after_it_was_heard_of_not_before() {
        change_callbacks(QUICK, |received| received.at += STEP * 2).is_refused(
            Rule::Delivered,
            id(QUICK),
            "no receiver had answered 2xx by then",
        );
    }

    #[test]
    fn a_completed_job_says_since_when() {
        Example::changed(|record| match record {
            Record::Row(row) if row.id == id(QUICK) => row.completed_at = None,
            _ => {}
        })
        .is_refused(Rule::Delivered, id(QUICK), "not said since when");
    }

    #[test]
    fn a_callback_has_the_right_bytes() {
        let mut story = Story::of(700).accepted().claimed_by("a").called(Some(200));
        if let Some(Record::Received(received)) = story.records.last_mut() {
            received.right = false;
        }
        // The right ones come as well, so that nothing else is wrong with it.
        let story = story.lost().claimed_by("b").called(Some(200));
        Example::with(story.completed()).is_refused(
            Rule::Delivered,
            id(700),
            "not the report that was ordered",
        );
    }

    #[test]
    fn a_job_is_not_heard_of_by_wrong_bytes() {
        let mut story = Story::of(700).accepted().claimed_by("a").called(Some(200));
        if let Some(Record::Received(received)) = story.records.last_mut() {
            received.right = false;
        }
        let verdict = Example::with(story.completed()).verdict();
        // They are wrong, and no others came.
        let rules: Vec<_> = verdict.by_rule().into_iter().collect();
        assert_eq!(rules, [(Rule::Delivered, 2)]);
    }

    #[test]
    fn a_repeat_has_the_same_bytes() {
        let mut digests = ["ab", "ac"].into_iter();
        change_callbacks(REPEATED, |received| {
            received.body_sha256 = digests.next().unwrap().to_owned();
        })
        .is_refused(Rule::Delivered, id(REPEATED), "the same bytes");
    }

    #[test]
    fn nobody_is_called_for_an_id_without_a_row() {
        let story = Story::nothing_of(700).unanswered().called(Some(200));
        Example::with(story).is_refused(Rule::Delivered, id(700), "has no row");
    }

    #[test]
    fn nobody_is_called_for_a_job_without_a_callback_url() {
        let story = Story::of(700).without_callback_url().accepted();
        let story = story.claimed_by("a").called(Some(200)).completed();
        Example::with(story).is_refused(Rule::Delivered, id(700), "without a callback URL");
    }

    #[test]
    fn the_stored_result_is_the_report_that_was_ordered() {
        for job in [POLLED, UNANSWERED] {
            let others = Story::nothing_of(701).result();
            Example::changed(|record| match record {
                Record::Row(row) if row.id == id(job) => row.held.result = Some(others.clone()),
                Record::Moved(moved)
                    if moved.id == id(job) && moved.after.status == Status::Completed =>
                {
                    moved.after.result = Some(others.clone());
                }
                _ => {}
            })
            .is_refused(Rule::Delivered, id(job), "the stored result");
        }
    }
}
