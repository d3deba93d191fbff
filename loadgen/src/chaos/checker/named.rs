//! Rule `named`: one request, one job. No row without a request, and no request with two rows.

use std::collections::HashSet;

use super::{
    index::{Index, JobHistory},
    verdict::Finding,
};
use crate::chaos::history::{HistoryLimits, Row, SubmitAnswer};

pub(super) fn check(job: &JobHistory<'_>, _: &HistoryLimits) -> Vec<String> {
    let mut found = Vec::new();
    if job.acceptances.len() > 1 {
        found.push(format!(
            "{} requests received this id in a 202",
            job.acceptances.len()
        ));
    }
    let Some(row) = job.row else { return found };
    for submitted in &job.acceptances {
        if submitted.report_name != row.report_name {
            found.push(format!(
                "`{}` was requested, and the row says `{}`",
                submitted.report_name, row.report_name
            ));
        }
    }
    // An accepted job has been compared with its own request above.
    if job.acceptances.is_empty() {
        found.extend(unpromised(job, row));
    }
    found
}

/// Violations of a row whose id is in no `202`.
fn unpromised(job: &JobHistory<'_>, row: &Row) -> Option<String> {
    let Some(request) = job.request else {
        return (!job.is_sync())
            .then(|| format!("`{}` has a row, and was never requested", row.report_name));
    };
    match &request.answer {
        SubmitAnswer::Accepted(other) => Some(format!(
            "`{}` has this row, and its 202 named {other}",
            row.report_name
        )),
        SubmitAnswer::Refused(status) => Some(format!(
            "`{}` has this row, and its request was refused with {status}",
            row.report_name
        )),
        // The commit may have succeeded although no `202` arrived. Such a job is legal, and has to
        // end like any other.
        SubmitAnswer::OutcomeUnknown | SubmitAnswer::NoAnswer(_) => None,
    }
}

/// The part of the rule that compares requests with each other.
pub(super) fn check_requests(index: &Index<'_>, _: &HistoryLimits) -> Vec<Finding> {
    let mut asked = HashSet::new();
    let again = index.submitted.iter().filter_map(|submitted| {
        let first = asked.insert(submitted.report_name.as_str());
        // The report name identifies the request, so it must be unique.
        (!first).then(|| Finding::from(format!("`{}` was requested twice", submitted.report_name)))
    });
    let mut found: Vec<_> = again.collect();

    let mut made = HashSet::new();
    let jobs = index.jobs().filter(|job| !job.is_sync());
    let unpromised = jobs.filter(|job| job.acceptances.is_empty());
    for (job, row) in unpromised.filter_map(|job| job.row.map(|row| (job, row))) {
        // A second row beside an accepted one is reported per job.
        if !made.insert(row.report_name.as_str()) {
            found.push(Finding {
                id: Some(job.id),
                what: format!("`{}` has two rows", row.report_name),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::{
        CheckRule,
        example::{Example, QUICK, RELEASED, Story, UNANSWERED, id},
    };
    use crate::chaos::history::{Record, SubmitAnswer};

    /// A job that completes, with this response to its request.
    fn done(millis: u64, answer: SubmitAnswer) -> Story {
        let story = Story::of(millis).submitted(answer);
        story.claimed_by("a").called(Some(200)).completed()
    }

    #[test]
    fn an_id_is_returned_to_one_request_only() {
        let story = Story::nothing_of(700).submitted(SubmitAnswer::Accepted(id(QUICK)));
        let verdict = Example::with(story).verdict();
        // The second request has no row with its own report either.
        assert_eq!(
            verdict.by_rule().into_iter().collect::<Vec<_>>(),
            [(CheckRule::Named, 2)]
        );
        assert!(
            verdict.violations[0]
                .what
                .contains("2 requests received this id")
        );
    }

    #[test]
    fn a_row_holds_the_requested_report() {
        Example::changed(|record| match record {
            Record::Row(row) if row.id == id(QUICK) => row.report_name = "another".to_owned(),
            _ => {}
        })
        .assert_violation(CheckRule::Named, id(QUICK), "the row says `another`");
    }

    #[test]
    fn no_row_exists_without_a_request() {
        let story = done(700, SubmitAnswer::NoAnswer(String::new()));
        let mut example = Example::with(story);
        example.records.retain(
            |record| !matches!(record, Record::Submitted(submitted) if submitted.report_name.ends_with("000700")),
        );
        example.assert_violation(CheckRule::Named, id(700), "was never requested");
    }

    #[test]
    fn a_refused_request_has_no_row_unless_its_outcome_is_unknown() {
        for status in [422, 503] {
            Example::with(done(700, SubmitAnswer::Refused(status))).assert_violation(
                CheckRule::Named,
                id(700),
                &format!("refused with {status}"),
            );
        }
        Example::with(done(700, SubmitAnswer::OutcomeUnknown)).assert_passes();
        let nothing = Story::nothing_of(700).submitted(SubmitAnswer::OutcomeUnknown);
        Example::with(nothing).assert_passes();
    }

    #[test]
    fn an_accepted_job_has_one_row() {
        let mut example = Example::with(done(700, SubmitAnswer::NoAnswer(String::new())));
        rename(&mut example, 700, QUICK);
        example.assert_violation(CheckRule::Named, id(700), "its 202 named");
    }

    #[test]
    fn an_unanswered_request_has_one_row() {
        let mut example = Example::with(done(700, SubmitAnswer::NoAnswer(String::new())));
        rename(&mut example, 700, UNANSWERED);
        example.assert_violation(CheckRule::Named, id(700), "two rows");
    }

    /// Gives the row of one job the report name and the result of the other.
    fn rename(example: &mut Example, job: u64, other: u64) {
        let name = format!("chaos-7-{other:06}");
        let result = Story::nothing_of(other).result();
        for record in &mut example.records {
            match record {
                Record::Row(row) if row.id == id(job) => {
                    row.report_name.clone_from(&name);
                    row.state.result = Some(result.clone());
                }
                Record::Transition(moved)
                    if moved.id == id(job) && moved.after.result.is_some() =>
                {
                    moved.after.result = Some(result.clone());
                }
                _ => {}
            }
        }
    }

    #[test]
    fn each_request_has_a_unique_report_name() {
        let again = Story::nothing_of(RELEASED).submitted(SubmitAnswer::Refused(503));
        Example::with(again).assert_run_violation(CheckRule::Named, "requested twice");
    }
}
