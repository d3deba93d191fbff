//! Rule `ended`: no lost job. Every job accepted with `202` has a row, and every row reaches a
//! final status.

use super::{index::JobHistory, is_final};
use crate::chaos::history::HistoryLimits;

pub(super) fn check(job: &JobHistory<'_>, _: &HistoryLimits) -> Vec<String> {
    match job.row {
        None if !job.acceptances.is_empty() => {
            vec!["it is lost: it was accepted with 202 and has no row".to_owned()]
        }
        Some(row) if !is_final(row.state.status) => {
            vec![format!(
                "it never reached a final status: its row is {}",
                row.state.status
            )]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        CheckRule,
        example::{Example, QUICK, Story, id},
    };
    use crate::chaos::history::Record;

    #[test]
    fn an_accepted_job_without_a_row_is_lost() {
        let lost = id(QUICK);
        Example::without(|record| matches!(record, Record::Row(row) if row.id == lost))
            .assert_violation(CheckRule::Ended, lost, "has no row");
    }

    #[test]
    fn a_202_without_any_other_record_is_a_lost_job() {
        let story = Story::nothing_of(700).accepted();
        Example::with(story).assert_violation(CheckRule::Ended, id(700), "has no row");
    }

    #[test]
    fn a_job_in_processing_has_not_ended() {
        let story = Story::of(700).accepted().claimed_by("a").row(None);
        Example::with(story).assert_violation(CheckRule::Ended, id(700), "its row is PROCESSING");
    }

    #[test]
    fn a_job_without_a_202_must_end_too() {
        let story = Story::of(700).unanswered().row(None);
        Example::with(story).assert_violation(CheckRule::Ended, id(700), "its row is PENDING");
    }
}
