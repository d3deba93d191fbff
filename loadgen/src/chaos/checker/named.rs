//! One request, one job: no row without a request, and no request with two.

use std::collections::HashSet;

use super::{
    index::{Index, Job},
    verdict::Finding,
};
use crate::chaos::history::{Answer, Limits, Row};

/// The status after which a commit may yet have happened.
const UNAVAILABLE: u16 = 503;

pub(super) fn check(job: &Job<'_>, _: &Limits) -> Vec<String> {
    let mut found = Vec::new();
    if job.promises.len() > 1 {
        found.push(format!("{} requests were told this id", job.promises.len()));
    }
    let Some(row) = job.row else { return found };
    for told in &job.promises {
        if told.report_name != row.report_name {
            found.push(format!(
                "`{}` was asked for, and the row says `{}`",
                told.report_name, row.report_name
            ));
        }
    }
    // A promised job has been compared with its own request.
    if job.promises.is_empty() {
        found.extend(unpromised(job, row));
    }
    found
}

/// What is wrong with a row that no `202` names.
fn unpromised(job: &Job<'_>, row: &Row) -> Option<String> {
    let Some(request) = job.request else {
        return (!job.is_sync()).then(|| format!("nobody asked for `{}`", row.report_name));
    };
    match &request.answer {
        Answer::Accepted(other) => Some(format!(
            "`{}` has this row, and its request was told {other}",
            row.report_name
        )),
        Answer::Refused(status) if *status != UNAVAILABLE => Some(format!(
            "`{}` has this row, and its request was refused with {status}",
            row.report_name
        )),
        Answer::Refused(_) | Answer::Nothing(_) => None,
    }
}

/// What the rule needs of the requests as a whole.
pub(super) fn check_requests(index: &Index<'_>, _: &Limits) -> Vec<Finding> {
    let mut asked = HashSet::new();
    let again = index.told.iter().filter_map(|told| {
        let first = asked.insert(told.report_name.as_str());
        // The answers to one request could not be told from those to the other.
        (!first).then(|| Finding::from(format!("`{}` was asked for twice", told.report_name)))
    });
    let mut found: Vec<_> = again.collect();

    let mut made = HashSet::new();
    let jobs = index.jobs().filter(|job| !job.is_sync());
    let unpromised = jobs.filter(|job| job.promises.is_empty());
    for (job, row) in unpromised.filter_map(|job| job.row.map(|row| (job, row))) {
        // A second row beside a promised one is the per-job rule's.
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
        Rule,
        example::{Example, HANDED_ON, QUICK, Story, UNANSWERED, id},
    };
    use crate::chaos::history::{Answer, Record};

    /// A job that ends well, whatever its request was told.
    fn done(millis: u64, answer: Answer) -> Story {
        let story = Story::of(millis).told(answer);
        story.claimed_by("a").called(Some(200)).completed()
    }

    #[test]
    fn two_requests_are_never_told_one_id() {
        let story = Story::nothing_of(700).told(Answer::Accepted(id(QUICK)));
        let verdict = Example::with(story).verdict();
        // The second one isn't told of its own report either.
        assert_eq!(
            verdict.by_rule().into_iter().collect::<Vec<_>>(),
            [(Rule::Named, 2)]
        );
        assert!(
            verdict.violations[0]
                .what
                .contains("2 requests were told this id")
        );
    }

    #[test]
    fn a_row_holds_what_was_asked_for() {
        Example::changed(|record| match record {
            Record::Row(row) if row.id == id(QUICK) => row.report_name = "another".to_owned(),
            _ => {}
        })
        .is_refused(Rule::Named, id(QUICK), "the row says `another`");
    }

    #[test]
    fn no_row_comes_of_nothing() {
        let story = done(700, Answer::Nothing(String::new()));
        let mut example = Example::with(story);
        example.records.retain(
            |record| !matches!(record, Record::Told(told) if told.report_name.ends_with("000700")),
        );
        example.is_refused(Rule::Named, id(700), "nobody asked for");
    }

    #[test]
    fn a_refused_request_has_no_row_unless_it_was_a_503() {
        Example::with(done(700, Answer::Refused(422))).is_refused(
            Rule::Named,
            id(700),
            "refused with 422",
        );
        Example::with(done(700, Answer::Refused(503))).is_accepted();
    }

    #[test]
    fn a_promised_job_has_one_row() {
        let mut example = Example::with(done(700, Answer::Nothing(String::new())));
        rename(&mut example, 700, QUICK);
        example.is_refused(Rule::Named, id(700), "its request was told");
    }

    #[test]
    fn an_unanswered_request_has_one_row() {
        let mut example = Example::with(done(700, Answer::Nothing(String::new())));
        rename(&mut example, 700, UNANSWERED);
        example.is_refused(Rule::Named, id(700), "two rows");
    }

    /// The row of one job says that it is the other's report, result included.
    fn rename(example: &mut Example, job: u64, other: u64) {
        let name = format!("chaos-7-{other:06}");
        let result = Story::nothing_of(other).result();
        for record in &mut example.records {
            match record {
                Record::Row(row) if row.id == id(job) => {
                    row.report_name.clone_from(&name);
                    row.held.result = Some(result.clone());
                }
                Record::Moved(moved) if moved.id == id(job) && moved.after.result.is_some() => {
                    moved.after.result = Some(result.clone());
                }
                _ => {}
            }
        }
    }

    #[test]
    fn each_request_asks_for_a_report_of_its_own() {
        let again = Story::nothing_of(HANDED_ON).told(Answer::Refused(503));
        Example::with(again).is_refused_as_a_whole(Rule::Named, "asked for twice");
    }
}
