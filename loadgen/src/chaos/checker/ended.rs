//! Every job that was promised has a row, and every row has ended.

use super::{index::Job, is_over};
use crate::chaos::history::Limits;

pub(super) fn check(job: &Job<'_>, _: &Limits) -> Vec<String> {
    match job.row {
        None if !job.promises.is_empty() => {
            vec!["it was promised by a 202 and has no row: it is lost".to_owned()]
        }
        Some(row) if !is_over(row.held.status) => {
            vec![format!("it never ended: its row is {}", row.held.status)]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Rule,
        example::{Example, QUICK, Story, id},
    };
    use crate::chaos::history::Record;

    #[test]
    fn a_promised_job_without_a_row_is_lost() {
        let lost = id(QUICK);
        Example::without(|record| matches!(record, Record::Row(row) if row.id == lost)).is_refused(
            Rule::Ended,
            lost,
            "has no row",
        );
    }

    #[test]
    fn a_promise_that_nothing_came_of_is_lost() {
        let story = Story::nothing_of(700).accepted();
        Example::with(story).is_refused(Rule::Ended, id(700), "has no row");
    }

    #[test]
    fn a_job_that_is_still_held_has_not_ended() {
        let story = Story::of(700).accepted().claimed_by("a").row(None);
        Example::with(story).is_refused(Rule::Ended, id(700), "its row is PROCESSING");
    }

    #[test]
    fn a_job_that_nobody_was_promised_must_end_too() {
        let story = Story::of(700).unanswered().row(None);
        Example::with(story).is_refused(Rule::Ended, id(700), "its row is PENDING");
    }
}
