//! A history in which everything went as promised, though much was broken. Tests change it, or add a
//! job's [`Story`], to make a history that must be refused.

mod story;

use std::time::Duration;

use jiff::Timestamp;
use storm_shared::models::{RequestId, Status};

pub(super) use self::story::{STEP, Story};
use super::{Rule, Verdict, check};
use crate::chaos::history::{Answer, Fault, Footprint, Limits, Record};

/// The attempts of a job, and the lost claims that condemn one.
pub(super) const ATTEMPTS: i64 = 4;
pub(super) const MAX_CLAIMS: i64 = 5;

const MIB: u64 = 1 << 20;
const FAULTS: [&str; 2] = ["kill_worker", "freeze_worker"];
/// When the first load has settled, and the second one, from the start.
const SETTLED: u64 = 60_000;
const AGAIN: u64 = 90_000;

/// So many milliseconds from the start.
pub(super) fn at(millis: u64) -> Timestamp {
    Timestamp::UNIX_EPOCH + Duration::from_hours(491_000) + Duration::from_millis(millis)
}

/// The id of the job that was accepted so many milliseconds from the start.
pub(super) fn id(millis: u64) -> RequestId {
    RequestId::floor(at(millis))
}

pub(super) fn limits() -> Limits {
    Limits::new(ATTEMPTS, MAX_CLAIMS, FAULTS.map(str::to_owned).to_vec())
}

/// A whole history.
pub(super) struct Example {
    pub(super) records: Vec<Record>,
}

/// When the jobs of the good history are inserted, by what happened to them. A later round of the
/// same stories comes `ROUND` after.
pub(super) const QUICK: u64 = 0;
pub(super) const POLLED: u64 = 1;
pub(super) const RETRIED: u64 = 2;
pub(super) const UNDELIVERABLE: u64 = 3;
pub(super) const REPEATED: u64 = 4;
pub(super) const HANDED_ON: u64 = 5;
pub(super) const POISONOUS: u64 = 6;
pub(super) const UNANSWERED: u64 = 7;
pub(super) const UNAVAILABLE: u64 = 8;
pub(super) const REFUSED: u64 = 9;
pub(super) const NEVER_MADE: u64 = 10;
pub(super) const FROZEN: u64 = 11;
pub(super) const HEARD_TOO_LATE: u64 = 12;
pub(super) const SYNC: u64 = 13;
const ROUND: u64 = 1000;
const ROUNDS: u64 = 4;

impl Example {
    /// Some dozens of jobs, and nothing wrong with any.
    pub(super) fn good() -> Self {
        let first = (0..ROUNDS).map(|round| round * ROUND);
        let second = (SETTLED + ROUND..AGAIN).step_by(10_000);
        let stories = first.chain(second).flat_map(stories);
        let mut records: Vec<_> = stories.flat_map(|story| story.records).collect();
        records.extend(FAULTS.map(|kind| fault(kind, 3)));
        records.extend([
            footprint("start", 0, MIB),
            footprint("settled", SETTLED, 4 * MIB),
            footprint("again", AGAIN + ROUND, 7 * MIB),
        ]);
        Self { records }
    }

    /// The good history and one story more.
    pub(super) fn with(story: Story) -> Self {
        let mut example = Self::good();
        example.records.extend(story.records);
        example
    }

    /// The good history with something changed, wherever `change` finds it.
    pub(super) fn changed(mut change: impl FnMut(&mut Record)) -> Self {
        let mut example = Self::good();
        let before = example.records.clone();
        example.records.iter_mut().for_each(&mut change);
        assert_ne!(before, example.records, "nothing was changed");
        example
    }

    /// The good history without some of its records.
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
    pub(super) fn is_accepted(&self) {
        let verdict = self.verdict();
        assert!(verdict.passed(), "{}", verdict.render(&self.records));
    }

    /// That this rule refuses it for this job, and no rule for anything else.
    #[track_caller]
    pub(super) fn is_refused(&self, rule: Rule, id: RequestId, what: &str) {
        self.is_refused_for(rule, Some(id), what);
    }

    /// That this rule refuses the run as a whole, and no rule anything else.
    #[track_caller]
    pub(super) fn is_refused_as_a_whole(&self, rule: Rule, what: &str) {
        self.is_refused_for(rule, None, what);
    }

    #[track_caller]
    fn is_refused_for(&self, rule: Rule, id: Option<RequestId>, what: &str) {
        let verdict = self.verdict();
        let words = verdict.render(&self.records);
        let [violation] = verdict.violations.as_slice() else {
            panic!("not one violation: {words}");
        };
        assert_eq!((violation.rule, violation.id), (rule, id), "{words}");
        assert!(violation.what.contains(what), "`{what}` is not in: {words}");
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

/// One job of every fate.
fn stories(start: u64) -> [Story; 14] {
    let of = |millis| Story::of(start + millis);
    [
        of(QUICK)
            .accepted()
            .looked(Some(Status::Pending))
            .claimed_by("a")
            .looked(Some(Status::Processing))
            .called(Some(200))
            .completed()
            .looked(Some(Status::Completed)),
        of(POLLED)
            .without_callback_url()
            .accepted()
            .claimed_by("a")
            .completed()
            .looked(Some(Status::Completed)),
        // Its first attempt doesn't even reach the receiver.
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
            .called(Some(200)) // which came too late
            .attempt_failed()
            .claimed_by("b")
            .called(Some(503))
            .callback_failed()
            .looked(Some(Status::Failed)),
        of(REPEATED)
            .accepted()
            .claimed_by("a")
            .stored()
            .called(Some(200))
            .lost()
            .looked(Some(Status::Pending))
            .claimed_by("b")
            .called(Some(200))
            .completed(),
        of(HANDED_ON)
            .accepted()
            .claimed_by("a")
            .given_back()
            .claimed_by("b")
            .called(None)
            .given_back()
            .claimed_by("c")
            .called(Some(200))
            .completed(),
        (1..MAX_CLAIMS)
            .fold(of(POISONOUS).accepted(), |story, _| {
                story.claimed_by("a").lost()
            })
            .claimed_by("a")
            .condemned(),
        of(UNANSWERED)
            .unanswered()
            .claimed_by("a")
            .called(Some(200))
            .completed(),
        of(UNAVAILABLE)
            .told(Answer::Refused(503))
            .claimed_by("a")
            .called(Some(200))
            .completed(),
        Story::nothing_of(start + REFUSED).told(Answer::Refused(422)),
        Story::nothing_of(start + NEVER_MADE).unanswered(),
        // Its first worker is frozen before its request is out, and wakes when all is over.
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
                of(HEARD_TOO_LATE).accepted().claimed_by("a").lost(),
                |story, _| story.claimed_by("b").called(Some(500)).attempt_failed(),
            )
            .claimed_by("b")
            .callback_failed()
            .called(Some(200)),
        Story::nothing_of(start + SYNC).inserted_over(),
    ]
}
