//! Rule `ended`: no lost job. Every job accepted with `202` has a row, and every row reaches a
//! final status. The same holds for redeliveries.

use super::{asked, index::JobHistory, is_final, series::Series};
use crate::chaos::history::HistoryLimits;

pub(super) fn check(job: &JobHistory<'_>, _: &HistoryLimits) -> Vec<String> {
    let mut found = unfinished(job);
    found.extend(job.redeliveries.iter().filter_map(unfinished_redelivery));
    found.extend(asked::matched(job).lost.into_iter().map(|asked| {
        format!(
            "its redelivery is lost: it was accepted with 202 at {:.3}, and has no row",
            asked.at
        )
    }));
    found
}

fn unfinished_redelivery(series: &Series<'_>) -> Option<String> {
    let last = series.moves.last().filter(|_| series.end().is_none())?;
    Some(format!(
        "its redelivery never ended: it is {} since {:.3}",
        last.after.status, last.at
    ))
}

fn unfinished(job: &JobHistory<'_>) -> Vec<String> {
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
