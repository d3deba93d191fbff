//! A valid history with faults. Tests change it, or add the [`Story`] of a job, to build a history
//! that the checker must reject.

mod story;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use storm_shared::models::{RequestId, Status};

pub(super) use self::story::{STEP, Story};
use super::{CheckRule, Verdict, check};
use crate::chaos::history::{
    CancelAnswer, EraseAnswer, Fault, Filter, FilterAction, Footprint, HistoryLimits, PauseAnswer,
    PauseAsked, PauseChanged, Record, RedeliveryAnswer, SubmitAnswer,
};

/// The delay after each failed attempt, and the longest wait of a parked job. Both are over when
/// the next step of a [`Story`] follows.
pub(super) const RETRY_DELAY: Duration = Duration::from_millis(10);
pub(super) const LONGEST_PARK: Duration = Duration::from_millis(15);

/// How long a callback may still be read after the answer to a `DELETE`.
pub(super) const CANCEL_GRACE: Duration = Duration::from_millis(500);

/// The origin of all receivers, and how long a job is parked when that is paused.
pub(super) const ORIGIN: &str = "http://a";
pub(super) const LONGEST_PAUSED: Duration = Duration::from_millis(40);

/// The client of all requests.
pub(super) const CLIENT: &str = "chaos";

/// The pauses of everything and of an origin, in milliseconds from the start. No job is claimed in
/// the one, nor called back in the other.
pub(super) const PAUSED: (u64, u64) = (40_000, 41_000);
pub(super) const ORIGIN_PAUSED: (u64, u64) = (42_000, 50_000);

/// How long finished requests are kept.
pub(super) const RETENTION: Duration = Duration::from_secs(10);

/// How long after the end of its work a handler may still read a request.
pub(super) const WORK_GRACE: SignedDuration = SignedDuration::from_millis(300);

/// The maximum attempts of a job, and the lost claims that make it poison.
pub(super) const ATTEMPTS: i64 = 4;
pub(super) const MAX_CLAIMS: i64 = 5;

const MIB: u64 = 1 << 20;
const FAULTS: [&str; 2] = ["kill_worker", "freeze_worker"];
/// When the first and the second load have settled, in milliseconds from the start.
const SETTLED: u64 = 60_000;
const AGAIN: u64 = 90_000;

/// The time `millis` milliseconds after the start.
pub(super) fn at(millis: u64) -> Timestamp {
    Timestamp::UNIX_EPOCH + Duration::from_hours(491_000) + Duration::from_millis(millis)
}

/// The id of the job that was accepted `millis` milliseconds after the start.
pub(super) fn id(millis: u64) -> RequestId {
    RequestId::floor(at(millis))
}

pub(super) fn limits() -> HistoryLimits {
    HistoryLimits {
        longest_park: 15,
        longest_paused: 40,
        ..HistoryLimits::new(
            &[RETRY_DELAY; 3],
            MAX_CLAIMS,
            FAULTS.map(str::to_owned).to_vec(),
        )
        .with_cancel_grace(CANCEL_GRACE)
        .with_retention(RETENTION, true)
        .with_handlers(&[RETRY_DELAY; 2], WORK_GRACE.unsigned_abs())
    }
}

/// A complete history.
pub(super) struct Example {
    pub(super) records: Vec<Record>,
}

/// The insert times of the jobs of the valid history, named by their fate. Each round repeats the
/// same stories `ROUND` milliseconds later.
pub(super) const QUICK: u64 = 0;
pub(super) const POLLED: u64 = 1;
pub(super) const RETRIED: u64 = 2;
pub(super) const UNDELIVERABLE: u64 = 3;
pub(super) const REPEATED: u64 = 4;
pub(super) const RELEASED: u64 = 5;
pub(super) const POISON: u64 = 6;
pub(super) const UNANSWERED: u64 = 7;
pub(super) const UNAVAILABLE: u64 = 8;
pub(super) const REFUSED: u64 = 9;
pub(super) const NEVER_MADE: u64 = 10;
pub(super) const FROZEN: u64 = 11;
pub(super) const LATE_DELIVERY: u64 = 12;
pub(super) const SYNC: u64 = 13;
pub(super) const REDEEMED: u64 = 14;
pub(super) const DELIVERED_AGAIN: u64 = 15;
pub(super) const DELETED: u64 = 19;
pub(super) const CANCELLED: u64 = 16;
pub(super) const INTERRUPTED: u64 = 17;
pub(super) const REDELIVERY_CANCELLED: u64 = 18;
pub(super) const WORKED: u64 = 22;
pub(super) const WORK_REFUSED: u64 = 23;
pub(super) const ERASED: u64 = 20;
pub(super) const ERASED_WITH_KEY: u64 = 21;
/// The two requests that operators act on by filter.
pub(super) const BY_FILTER: u64 = 95_000;
const ROUND: u64 = 1000;
const ROUNDS: u64 = 4;

impl Example {
    /// Some dozens of jobs without a violation.
    pub(super) fn good() -> Self {
        let first = (0..ROUNDS).map(|round| round * ROUND);
        let second = (SETTLED + ROUND..AGAIN).step_by(10_000);
        let rounds = first.chain(second);
        let stories = rounds.flat_map(|start| {
            let stories = stories(start).into_iter().chain(redeliveries(start));
            let stories = stories.chain(cancellations(start)).chain(erasures(start));
            stories.chain([deleted(start)]).chain(of_handler(start))
        });
        let stories = stories.chain(by_filter(BY_FILTER));
        let mut records: Vec<_> = stories.flat_map(|story| story.records).collect();
        records.extend(pauses(None, PAUSED));
        records.extend(pauses(Some(ORIGIN), ORIGIN_PAUSED));
        records.extend(FAULTS.map(|kind| fault(kind, 3)));
        records.extend([
            footprint("start", 0, MIB),
            footprint("settled", SETTLED, 4 * MIB),
            footprint("again", AGAIN + ROUND, 7 * MIB),
        ]);
        Self { records }
    }

    /// The valid history with one more story.
    pub(super) fn with(story: Story) -> Self {
        let mut example = Self::good();
        example.records.extend(story.records);
        example
    }

    /// The valid history with `change` applied to each record.
    pub(super) fn changed(mut change: impl FnMut(&mut Record)) -> Self {
        let mut example = Self::good();
        let before = example.records.clone();
        example.records.iter_mut().for_each(&mut change);
        assert_ne!(before, example.records, "nothing was changed");
        example
    }

    /// The valid history without the selected records.
    pub(super) fn without(mut which: impl FnMut(&Record) -> bool) -> Self {
        let mut example = Self::good();
        let before = example.records.len();
        example.records.retain(|record| !which(record));
        assert!(example.records.len() < before, "nothing was left out");
        example
    }

    pub(super) fn verdict(&self) -> Verdict {
        check(&self.records, &limits())
    }

    #[track_caller]
    pub(super) fn assert_passes(&self) {
        let verdict = self.verdict();
        assert!(verdict.passed(), "{}", verdict.render(&self.records));
    }

    /// Asserts exactly one violation: of this rule, for this job.
    #[track_caller]
    pub(super) fn assert_violation(&self, rule: CheckRule, id: RequestId, what: &str) {
        self.assert_one_violation(rule, Some(id), what);
    }

    /// Asserts exactly one violation: of this rule, for the run as a whole.
    #[track_caller]
    pub(super) fn assert_run_violation(&self, rule: CheckRule, what: &str) {
        self.assert_one_violation(rule, None, what);
    }

    #[track_caller]
    fn assert_one_violation(&self, rule: CheckRule, id: Option<RequestId>, what: &str) {
        let verdict = self.verdict();
        let text = verdict.render(&self.records);
        let [violation] = verdict.violations.as_slice() else {
            panic!("not one violation: {text}");
        };
        assert_eq!((violation.rule, violation.id), (rule, id), "{text}");
        assert!(violation.what.contains(what), "`{what}` is not in: {text}");
    }
}

fn fault(kind: &str, in_flight: u64) -> Record {
    Record::Fault(Fault {
        at: at(100),
        healed_at: at(300),
        kind: kind.to_owned(),
        in_flight,
    })
}

fn footprint(moment: &str, millis: u64, database: u64) -> Record {
    Record::Footprint(Footprint {
        at: at(millis),
        moment: moment.to_owned(),
        database,
        log: MIB,
        redis_memory: MIB,
        redis_entries: 0,
        resident: ["api", "worker 1"]
            .map(|name| (name.to_owned(), 40 * MIB))
            .to_vec(),
    })
}

/// A completed job, beside those of the history.
pub(super) fn completed() -> Story {
    let story = Story::of(700).accepted().claimed_by("a");
    story.called(Some(200)).completed()
}

/// Asserts exactly one violation: of this rule, for the job of this story.
#[track_caller]
pub(super) fn assert_violation(story: Story, rule: CheckRule, what: &str) {
    let id = story.id;
    Example::with(story).assert_violation(rule, id, what);
}

#[track_caller]
pub(super) fn assert_passes(story: Story) {
    Example::with(story).assert_passes();
}

/// A pause and a resumption, with their requests.
fn pauses(origin: Option<&str>, (from, to): (u64, u64)) -> impl Iterator<Item = Record> {
    [(from, true), (to, false)]
        .into_iter()
        .flat_map(move |(millis, pauses)| {
            let done = PauseAnswer::Done { changed: true };
            [
                pause_changed(origin, millis, pauses),
                pause_asked(origin, millis, pauses, done),
            ]
        })
}

/// A change of what is paused at this time.
pub(super) fn pause_changed(origin: Option<&str>, millis: u64, paused: bool) -> Record {
    Record::PauseChanged(PauseChanged {
        at: at(millis),
        not_before: at(millis),
        origin: origin.map(str::to_owned),
        paused,
        audited: 1,
    })
}

/// A request to pause or resume, from shortly before this time to shortly after it.
pub(super) fn pause_asked(
    origin: Option<&str>,
    millis: u64,
    pauses: bool,
    answer: PauseAnswer,
) -> Record {
    Record::PauseAsked(PauseAsked {
        asked_at: at(millis - 20),
        at: at(millis + 20),
        origin: origin.map(str::to_owned),
        pauses,
        answer,
    })
}

pub(super) fn refused(status: u16, problem: &str) -> RedeliveryAnswer {
    RedeliveryAnswer::Refused {
        status,
        problem: Some(problem.to_owned()),
    }
}

/// One job per fate.
fn stories(start: u64) -> [Story; 14] {
    let of = |millis| Story::of(start + millis);
    [
        of(QUICK)
            .accepted()
            .polled(Some(Status::Pending))
            .claimed_by("a")
            .polled(Some(Status::Processing))
            .called(Some(200))
            .completed()
            .polled(Some(Status::Completed)),
        of(POLLED)
            .without_callback_url()
            .accepted()
            .claimed_by("a")
            .completed()
            .polled(Some(Status::Completed)),
        // The first attempt does not reach the receiver.
        of(RETRIED)
            .accepted()
            .claimed_by("a")
            .attempt_failed()
            .claimed_by("b")
            .called(Some(500))
            .attempt_failed()
            .claimed_by("a")
            .called(Some(204))
            .completed(),
        of(UNDELIVERABLE)
            .accepted()
            .claimed_by("a")
            .called(Some(500))
            .attempt_failed()
            .claimed_by("a")
            .called(None)
            .attempt_failed()
            .claimed_by("b")
            .called(Some(200)) // after the attempt's timeout
            .attempt_failed()
            .claimed_by("b")
            .called(Some(503))
            .callback_failed()
            .polled(Some(Status::Failed)),
        of(REPEATED)
            .accepted()
            .claimed_by("a")
            .stored()
            .called(Some(200))
            .lost()
            .polled(Some(Status::Pending))
            .claimed_by("b")
            .called(Some(200))
            .completed(),
        of(RELEASED)
            .accepted()
            .claimed_by("a")
            .released()
            .claimed_by("b")
            .called(None)
            .released()
            .claimed_by("c")
            .called(Some(200))
            .completed(),
        (1..MAX_CLAIMS)
            .fold(of(POISON).accepted(), |story, _| {
                story.claimed_by("a").lost()
            })
            .claimed_by("a")
            .dead_lettered(),
        of(UNANSWERED)
            .unanswered()
            .claimed_by("a")
            .called(Some(200))
            .completed(),
        of(UNAVAILABLE)
            .submitted(SubmitAnswer::OutcomeUnknown)
            .claimed_by("a")
            .called(Some(200))
            .completed(),
        Story::nothing_of(start + REFUSED).submitted(SubmitAnswer::Refused(422)),
        Story::nothing_of(start + NEVER_MADE).unanswered(),
        // The first worker is frozen before it sends the request, and sends it after the job's end.
        of(FROZEN)
            .accepted()
            .claimed_by("a")
            .lost()
            .claimed_by("b")
            .called(Some(200))
            .completed()
            .called(Some(200)),
        (1..ATTEMPTS)
            .fold(
                of(LATE_DELIVERY).accepted().claimed_by("a").lost(),
                |story, _| story.claimed_by("b").called(Some(500)).attempt_failed(),
            )
            .claimed_by("b")
            .callback_failed()
            .called(Some(200)),
        Story::nothing_of(start + SYNC).inserted_final(),
    ]
}

/// Jobs that are delivered again after their end.
fn redeliveries(start: u64) -> [Story; 2] {
    let of = |millis| Story::of(start + millis);
    [
        // The redelivery of a `FAILED` job is refused while another one is in progress.
        (1..ATTEMPTS)
            .fold(of(REDEEMED).accepted().claimed_by("a"), |story, _| {
                story.attempt_failed().claimed_by("a")
            })
            .callback_failed()
            .polled(Some(Status::Failed))
            .redelivering()
            .claimed_by("b")
            .asked_again(refused(409, "redelivery-under-way"))
            .called(Some(500))
            .attempt_failed()
            .claimed_by("a")
            .called(Some(200))
            .redelivered()
            .polled(Some(Status::Completed)),
        // A `COMPLETED` job is delivered again, and then one more time, which fails.
        (1..ATTEMPTS)
            .fold(
                of(DELIVERED_AGAIN)
                    .accepted()
                    .claimed_by("a")
                    .called(Some(200))
                    .completed()
                    .redelivering()
                    .claimed_by("b")
                    .called(Some(200))
                    .lost()
                    .claimed_by("c")
                    .parked()
                    .claimed_by("c")
                    .released()
                    .claimed_by("a")
                    .called(Some(200))
                    .redelivered()
                    .redelivering()
                    .claimed_by("a"),
                |story, _| story.called(Some(500)).attempt_failed().claimed_by("b"),
            )
            .redelivery_failed("callback_failed"),
    ]
}

/// Jobs and redeliveries that are cancelled.
fn cancellations(start: u64) -> [Story; 3] {
    let of = |millis| Story::of(start + millis);
    [
        // The answer to the first request is lost.
        of(CANCELLED)
            .accepted()
            .claimed_by("a")
            .attempt_failed()
            .cancelled()
            .cancel_asked(CancelAnswer::NoAnswer("cut".to_owned()))
            .later(STEP)
            .cancel_asked(CancelAnswer::Job)
            .polled(Some(Status::Failed)),
        // The attempt that had begun arrives. It is redelivered, and cancelled once more.
        of(INTERRUPTED)
            .accepted()
            .claimed_by("a")
            .stored()
            .cancelled()
            .cancel_asked(CancelAnswer::Job)
            .called(Some(200))
            .redelivering()
            .redelivery_cancelled()
            .cancel_asked(CancelAnswer::Redelivery)
            .later(STEP * 2)
            .cancel_asked(CancelAnswer::Job),
        of(REDELIVERY_CANCELLED)
            .accepted()
            .claimed_by("a")
            .called(Some(200))
            .completed()
            .redelivering()
            .claimed_by("b")
            .called(Some(500))
            .redelivery_cancelled()
            .cancel_asked(CancelAnswer::Redelivery)
            .later(STEP * 2)
            .cancel_asked(CancelAnswer::Refused {
                status: 409,
                problem: Some("request-over".to_owned()),
            }),
    ]
}

/// A job that is delivered, and deleted after its time.
fn deleted(start: u64) -> Story {
    let retention = SignedDuration::try_from(RETENTION).unwrap();
    Story::of(start + DELETED)
        .accepted()
        .claimed_by("a")
        .called(Some(200))
        .completed()
        .polled(Some(Status::Completed))
        .later(retention)
        .deleted()
        .polled(None)
        .asked_again(refused(404, "not-found"))
}

/// Jobs of a handler.
fn of_handler(start: u64) -> [Story; 2] {
    let of = |millis| Story::of_handler(start + millis);
    [
        // The handler fails first. Then the worker dies between the work and the callback.
        of(WORKED)
            .claimed_by("a")
            .worked(Some(500))
            .work_attempt_failed(Some(500))
            .claimed_by("b")
            .worked(Some(200))
            .work_stored(Some(200))
            .lost()
            .claimed_by("a")
            .called(Some(500))
            .attempt_failed()
            .claimed_by("a")
            .called(Some(200))
            .completed(),
        of(WORK_REFUSED)
            .claimed_by("a")
            .worked(Some(422))
            .work_stored(Some(422))
            .called(Some(200))
            .told_of_failure(),
    ]
}

/// Requests that are erased.
fn erasures(start: u64) -> [Story; 2] {
    let of = |millis| Story::of(start + millis);
    [
        // The answer to the first request is lost.
        of(ERASED)
            .accepted()
            .claimed_by("a")
            .called(Some(200))
            .completed()
            .polled(Some(Status::Completed))
            .erased()
            .erase_asked(EraseAnswer::NoAnswer("cut".to_owned()))
            .later(STEP)
            .erase_answered()
            .polled_erased(Status::Completed, &[])
            .asked_again(refused(409, "request-erased")),
        of(ERASED_WITH_KEY)
            .keyed(SubmitAnswer::Accepted(id(start + ERASED_WITH_KEY)))
            .erase_asked(EraseAnswer::Refused {
                status: 409,
                problem: Some("request-unfinished".to_owned()),
            })
            .claimed_by("a")
            .called(Some(200))
            .completed()
            .erased()
            .erase_answered()
            .keyed(SubmitAnswer::KeyReused),
    ]
}

/// A filter for one request.
pub(super) fn named(id: RequestId) -> Filter {
    Filter {
        ids: vec![id],
        ..Filter::default()
    }
}

/// Requests that operators cancel and redeliver by filter.
fn by_filter(start: u64) -> [Story; 2] {
    let (one, other) = (named(id(start)), named(id(start + 1)));
    [
        Story::of(start)
            .accepted()
            .tried_out(FilterAction::Cancel, one.clone(), true)
            .cancelled_by(one),
        Story::of(start + 1)
            .accepted()
            .claimed_by("a")
            .called(Some(200))
            .completed()
            .redelivering_by(other.clone())
            .redelivery_cancelled_by(other),
    ]
}
