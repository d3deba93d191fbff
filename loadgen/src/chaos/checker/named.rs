//! Rule `named`: one request, one job. No row without a request, and no request with two rows.
//! Requests with the same idempotency key are one request, however often it is sent.

use std::collections::{HashMap, HashSet};

use storm_shared::models::RequestId;

use super::{
    index::{Index, JobHistory},
    not_later,
    verdict::Finding,
};
use crate::chaos::history::{HistoryLimits, Row, SubmitAnswer, Submitted};

pub(super) fn check(job: &JobHistory<'_>, _: &HistoryLimits) -> Vec<String> {
    let mut found = Vec::new();
    let requests = requests(&job.acceptances);
    if requests > 1 {
        found.push(format!("{requests} requests received this id in a 202"));
    }
    let Some(row) = job.row else { return found };
    for submitted in &job.acceptances {
        if submitted.handler != row.handler {
            found.push(format!(
                "it was submitted for the handler {:?}, and the row says {:?}",
                submitted.handler, row.handler
            ));
        }
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

/// The number of requests that were sent as these.
fn requests(sent: &[&Submitted]) -> usize {
    let (keyed, others): (Vec<&Submitted>, Vec<_>) = sent.iter().partition(|sent| sent.keyed);
    let keys: HashSet<_> = keyed.iter().map(|sent| &sent.report_name).collect();
    keys.len() + others.len()
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
        SubmitAnswer::KeyReused | SubmitAnswer::OutcomeUnknown | SubmitAnswer::NoAnswer(_) => None,
    }
}

/// The part of the rule that compares requests with each other.
pub(super) fn check_requests(index: &Index<'_>, _: &HistoryLimits) -> Vec<Finding> {
    let mut asked = HashMap::new();
    let again = index.submitted.iter().filter_map(|submitted| {
        let name = submitted.report_name.as_str();
        // The report name identifies the request, so it must be unique.
        let earlier = asked.insert(name, submitted.keyed)?;
        let repeated = earlier && submitted.keyed;
        (!repeated).then(|| Finding::from(format!("`{name}` was requested twice")))
    });
    let mut found: Vec<_> = again.collect();
    found.extend(second_jobs(index));
    found.extend(reused_keys(index));

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

/// The ids in a `202` beside those of the first ones with the same idempotency key.
fn second_jobs(index: &Index<'_>) -> Vec<Finding> {
    let mut first: HashMap<&str, RequestId> = HashMap::new();
    let keyed = index.submitted.iter().filter(|submitted| submitted.keyed);
    let others = keyed.filter_map(|submitted| {
        let SubmitAnswer::Accepted(id) = submitted.answer else {
            return None;
        };
        let name = submitted.report_name.as_str();
        let first = *first.entry(name).or_insert(id);
        (first != id).then(|| Finding {
            id: Some(id),
            what: format!("`{name}` was accepted as {first} before, with the same idempotency key"),
        })
    });
    others.collect()
}

/// The answers that a key belongs to another submission, although its job was not erased.
fn reused_keys(index: &Index<'_>) -> Vec<Finding> {
    let reused = |answer: &SubmitAnswer| *answer == SubmitAnswer::KeyReused;
    let answers = index.submitted.iter().filter(|it| reused(&it.answer));
    let answers: Vec<_> = answers.collect();
    if answers.is_empty() {
        return Vec::new();
    }
    let erased = index.jobs().filter_map(|job| {
        let erasure = job.erasure()?;
        Some((job.row?.report_name.as_str(), erasure.earliest()))
    });
    let erased: HashMap<_, _> = erased.collect();
    let is_true = |submitted: &Submitted| {
        let since = erased.get(submitted.report_name.as_str());
        submitted.keyed && since.is_some_and(|since| not_later(*since, submitted.at))
    };
    let untrue = answers.into_iter().filter(|submitted| !is_true(submitted));
    untrue
        .map(|submitted| {
            Finding::from(format!(
                "the key of `{}` was answered as reused at {:.3}, and its job was not erased",
                submitted.report_name, submitted.at
            ))
        })
        .collect()
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

    /// A job that completes, and was sent with an idempotency key for each of these answers.
    fn sent_again(story: Story, answers: impl IntoIterator<Item = SubmitAnswer>) -> Story {
        let story = answers.into_iter().fold(story, Story::keyed);
        story.claimed_by("a").called(Some(200)).completed()
    }

    #[test]
    fn a_request_with_a_key_may_be_sent_again_and_has_one_row() {
        let (refused, nothing) = (
            SubmitAnswer::Refused(503),
            SubmitAnswer::NoAnswer(String::new()),
        );
        let accepted = SubmitAnswer::Accepted(id(700));
        let all = [&refused, &nothing, &accepted, &refused, &accepted].map(Clone::clone);
        Example::with(sent_again(Story::of(700), all)).assert_passes();
        let unknown = [&refused, &nothing, &refused].map(Clone::clone);
        Example::with(sent_again(Story::of(700), unknown)).assert_passes();
        Example::with(sent_again(Story::of(700), [refused])).assert_violation(
            CheckRule::Named,
            id(700),
            "refused with 503",
        );
        let without_key = done(700, accepted.clone()).submitted(accepted);
        let verdict = Example::with(without_key).verdict();
        assert_eq!(
            verdict.by_rule().into_iter().collect::<Vec<_>>(),
            [(CheckRule::Named, 2)]
        );
    }

    #[test]
    fn a_key_has_one_job() {
        let accepted = |millis| [SubmitAnswer::Accepted(id(millis))];
        let mut example = Example::with(sent_again(Story::of(700), accepted(700)));
        let second = Story::of(701).for_report_of(700);
        example
            .records
            .extend(sent_again(second, accepted(701)).records);
        example.assert_violation(CheckRule::Named, id(701), "with the same idempotency key");
    }

    #[test]
    fn each_request_has_a_unique_report_name() {
        let again = Story::nothing_of(RELEASED).submitted(SubmitAnswer::Refused(503));
        Example::with(again).assert_run_violation(CheckRule::Named, "requested twice");
    }
}
