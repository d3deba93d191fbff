//! What clients saw of a job never went back.

use storm_shared::models::Status;

use super::{index::Job, is_over};
use crate::chaos::history::{Limits, Looked};

pub(super) fn check(job: &Job<'_>, _: &Limits) -> Vec<String> {
    let mut found = vanished(job);
    let ends = job.looks.iter().filter(|look| saw_end(look));
    // Of two ends the one that was read first stands.
    if let Some(end) = ends.min_by_key(|look| look.at) {
        found.extend(went_back(job, end));
    }
    found
}

/// A `404` for a job that had been promised, or found.
fn vanished(job: &Job<'_>) -> Vec<String> {
    let promised = job.promises.iter().map(|told| told.at);
    let found = job.looks.iter().filter(|look| look.status.is_some());
    let Some(known) = promised.chain(found.map(|look| look.at)).min() else {
        return Vec::new();
    };
    let unknown = job
        .looks
        .iter()
        .filter(|look| look.status.is_none() && look.asked_at >= known);
    unknown
        .map(|look| {
            format!(
                "it was unknown (404) at {:.3}, and known since {known:.3}",
                look.at
            )
        })
        .collect()
}

/// Whatever contradicts `end`: another end at any time, no end later, another end in the table.
fn went_back(job: &Job<'_>, end: &Looked) -> Vec<String> {
    let contradicts = |look: &&&Looked| {
        look.status != end.status
            && look.status.is_some()
            && (look.asked_at >= end.at || saw_end(look))
    };
    let seen = |status: Option<Status>| status.map_or("unknown", Status::as_str);
    let mut found: Vec<_> = job
        .looks
        .iter()
        .filter(contradicts)
        .map(|look| {
            format!(
                "it was seen {} at {:.3}, and {} at {:.3}",
                seen(end.status),
                end.at,
                seen(look.status),
                look.at
            )
        })
        .collect();
    if let Some(row) = job.row.filter(|row| Some(row.held.status) != end.status) {
        found.push(format!(
            "it was seen {} at {:.3}, and its row is {}",
            seen(end.status),
            end.at,
            row.held.status
        ));
    }
    found
}

fn saw_end(look: &Looked) -> bool {
    look.status.is_some_and(is_over)
}

#[cfg(test)]
mod tests {
    use storm_shared::models::Status::{Completed, Failed, Pending, Processing};

    use super::super::{
        Rule,
        example::{Example, STEP, Story, id},
    };

    fn done() -> Story {
        let story = Story::of(700).accepted().claimed_by("a");
        story.called(Some(200)).completed()
    }

    #[track_caller]
    fn is_wrong(story: Story, what: &str) {
        Example::with(story).is_refused(Rule::Seen, id(700), what);
    }

    #[test]
    fn a_job_that_was_seen_over_is_never_seen_otherwise() {
        for status in [Pending, Processing, Failed] {
            let story = done().looked(Some(Completed)).looked(Some(status));
            is_wrong(story, "it was seen COMPLETED");
        }
    }

    #[test]
    fn a_look_that_was_asked_before_may_be_of_before() {
        let before = done().looked(Some(Completed)).later(-STEP);
        Example::with(before.looked(Some(Processing))).is_refused(
            Rule::Seen,
            id(700),
            "it was seen COMPLETED",
        );
        let overlapping = done().looked(Some(Completed)).later(-STEP * 3 / 2);
        Example::with(overlapping.looked(Some(Processing))).is_accepted();
    }

    #[test]
    fn a_job_has_one_end_however_it_is_looked_at() {
        let overlapping = done().looked(Some(Completed)).later(-STEP * 3 / 2);
        is_wrong(overlapping.looked(Some(Failed)), "and FAILED at");
    }

    #[test]
    fn a_job_ends_as_it_was_seen() {
        let story = Story::of(700).accepted().looked(Some(Failed));
        let story = story.claimed_by("a").called(Some(200));
        is_wrong(story.completed(), "and its row is COMPLETED");
    }

    #[test]
    fn a_promised_job_is_never_unknown() {
        is_wrong(done().looked(None), "it was unknown (404)");
        let story = Story::of(700).accepted().looked(None).claimed_by("a");
        is_wrong(story.called(Some(200)).completed(), "it was unknown (404)");
    }

    #[test]
    fn a_job_that_was_found_is_never_unknown_later() {
        let story = Story::of(700)
            .unanswered()
            .looked(Some(Pending))
            .looked(None);
        let story = story.claimed_by("a").called(Some(200));
        is_wrong(story.completed(), "it was unknown (404)");
    }

    #[test]
    fn a_job_may_be_unknown_before_anybody_was_told() {
        let story = Story::of(700).looked(None).accepted().claimed_by("a");
        Example::with(story.called(Some(200)).completed()).is_accepted();
        // Asked before the 202 came, and answered after.
        let story = Story::of(700).accepted().later(-STEP * 3 / 2).looked(None);
        let story = story.claimed_by("a").called(Some(200));
        Example::with(story.completed()).is_accepted();
    }
}
