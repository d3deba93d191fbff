//! The course of a run: what was accepted and delivered in each interval, and what was broken
//! when. Counted from the history.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use storm_shared::models::Status;

use super::{
    history::{Received, Record, RowKind, SubmitAnswer, Transition},
    plan::FaultKind,
};

/// The most intervals of a course. Those of a longer run are longer.
const MAX_POINTS: u64 = 240;

/// The shortest interval.
const SHORTEST: Duration = Duration::from_millis(250);

/// The course of a run. All times are milliseconds from its first request or fault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Course {
    /// The length of an interval.
    pub interval_ms: u64,
    /// The intervals.
    pub points: Vec<CoursePoint>,
    /// The faults, in the order of their injection.
    pub faults: Vec<CourseFault>,
    /// The ends of the run's parts: `storm`, `settled`, `again`.
    pub parts: Vec<CoursePart>,
}

/// What happened in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoursePoint {
    /// Its start.
    pub at_ms: u64,
    /// Requests answered with `202`.
    pub accepted: u64,
    /// Requests with another answer, or with none.
    pub refused: u64,
    /// Callbacks that a receiver answered with 2xx.
    pub delivered: u64,
    /// Jobs that became `COMPLETED` or `FAILED`.
    pub ended: u64,
    /// Jobs that had not ended at its end.
    pub unfinished: u64,
}

/// An injected fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CourseFault {
    /// Its kind, as the plan names it.
    pub kind: String,
    /// When it was injected.
    pub at_ms: u64,
    /// When it was healed.
    pub healed_ms: u64,
    /// Unfinished jobs when it was injected.
    pub in_flight: u64,
    /// Whether a process was killed.
    pub kill: bool,
}

/// The end of a part of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoursePart {
    /// The part.
    pub part: String,
    /// Its end.
    pub at_ms: u64,
}

impl Course {
    /// The course of a run with this history; empty without a request and a fault.
    pub fn of(records: &[Record]) -> Self {
        let moments = || records.iter().filter_map(moment);
        let (Some(start), Some(end)) = (moments().min(), moments().max()) else {
            return Self::default();
        };
        let since = |at: Timestamp| {
            let passed = at.duration_since(start).as_millis();
            u64::try_from(passed).unwrap_or_default() // a part of the stack's start is before
        };
        let mut interval = u64::try_from(SHORTEST.as_millis()).unwrap_or(1);
        while since(end) / interval >= MAX_POINTS {
            interval *= 2;
        }
        let mut course = Self {
            interval_ms: interval,
            points: (0..=since(end) / interval)
                .map(|number| CoursePoint {
                    at_ms: number * interval,
                    ..CoursePoint::default()
                })
                .collect(),
            ..Self::default()
        };
        let mut begun = vec![0_u64; course.points.len()];
        for record in records {
            let Some(index) = moment(record).map(|at| since(at) / interval) else {
                continue;
            };
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            let Some(point) = course.points.get_mut(index) else {
                continue;
            };
            match record {
                Record::Submitted(submitted) => match submitted.answer {
                    SubmitAnswer::Accepted(_) => point.accepted += 1,
                    _ => point.refused += 1,
                },
                Record::Received(received) if is_delivery(received) => point.delivered += 1,
                Record::Transition(moved) if moved.kind == RowKind::Job => {
                    begun[index] += u64::from(moved.before.is_none());
                    point.ended += u64::from(is_end(moved));
                }
                Record::Fault(fault) => course.faults.push(CourseFault {
                    kind: fault.kind.clone(),
                    at_ms: since(fault.at),
                    healed_ms: since(fault.healed_at).max(since(fault.at)),
                    in_flight: fault.in_flight,
                    kill: FaultKind::named(&fault.kind).is_some_and(FaultKind::kills),
                }),
                Record::Footprint(footprint) => course.parts.push(CoursePart {
                    part: footprint.moment.clone(),
                    at_ms: since(footprint.at),
                }),
                _ => {}
            }
        }
        course.faults.sort_by_key(|fault| fault.at_ms);
        // That of the start is before all.
        course.parts.retain(|part| part.part != "start");
        let mut unfinished = 0_u64;
        for (point, begun) in course.points.iter_mut().zip(begun) {
            unfinished = (unfinished + begun).saturating_sub(point.ended);
            point.unfinished = unfinished;
        }
        course
    }
}

/// When it was, for the records that a course is made of.
fn moment(record: &Record) -> Option<Timestamp> {
    match record {
        Record::Submitted(submitted) => Some(submitted.at),
        Record::Received(received) => Some(received.at),
        Record::Transition(moved) => Some(moved.at),
        Record::Fault(fault) => Some(fault.at),
        Record::Footprint(footprint) if footprint.moment != "start" => Some(footprint.at),
        _ => None,
    }
}

fn is_delivery(received: &Received) -> bool {
    let status = received.answered.unwrap_or_default();
    received.right && (200..300).contains(&status)
}

fn is_end(moved: &Transition) -> bool {
    let is_final = |status: Status| matches!(status, Status::Completed | Status::Failed);
    let was_final = moved.before.as_ref().is_some_and(|it| is_final(it.status));
    is_final(moved.after.status) && !was_final
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use storm_shared::models::{RequestId, Status};

    use super::{Course, MAX_POINTS};
    use crate::chaos::history::{
        Fault, Footprint, Received, Record, RowKind, RowState, SubmitAnswer, Submitted, Transition,
    };

    fn at(ms: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_millis(ms)
    }

    fn submitted(ms: i64, answer: SubmitAnswer) -> Record {
        Record::Submitted(Submitted {
            at: at(ms),
            report_name: "a".to_owned(),
            records: 1,
            keyed: false,
            handler: None,
            client: None,
            origin: None,
            answer,
        })
    }

    fn moved(ms: i64, before: Option<Status>, after: Status) -> Record {
        let state = |status| RowState {
            status,
            claim: 1,
            owner: None,
            attempts: 0,
            lost_claims: 0,
            result: None,
            parks: 0,
        };
        Record::Transition(Transition {
            kind: RowKind::Job,
            at: at(ms),
            not_before: None,
            id: RequestId::generate(),
            before: before.map(state),
            after: state(after),
            was_due: None,
            due: None,
            erases: false,
            reason: None,
            by_filter: false,
        })
    }

    fn received(ms: i64, answered: Option<u16>) -> Record {
        Record::Received(Received {
            at: at(ms),
            id: RequestId::generate(),
            body_sha256: String::new(),
            right: true,
            answered,
            origin: None,
            work: None,
        })
    }

    fn fault(ms: i64, kind: &str) -> Record {
        Record::Fault(Fault {
            at: at(ms),
            healed_at: at(ms + 300),
            kind: kind.to_owned(),
            in_flight: 7,
        })
    }

    fn footprint(ms: i64, moment: &str) -> Record {
        Record::Footprint(Footprint {
            at: at(ms),
            moment: moment.to_owned(),
            database: 0,
            log: 0,
            redis_memory: 0,
            redis_entries: 0,
            resident: Vec::new(),
        })
    }

    #[test]
    fn each_interval_counts_what_happened_in_it_and_the_jobs_that_are_left() {
        let course = Course::of(&[
            footprint(0, "start"),
            submitted(1000, SubmitAnswer::Accepted(RequestId::generate())),
            moved(1000, None, Status::Pending),
            moved(1010, None, Status::Pending),
            moved(1100, Some(Status::Pending), Status::Processing),
            submitted(1300, SubmitAnswer::Refused(503)),
            received(1350, Some(200)),
            received(1360, Some(500)),
            received(1370, None),
            moved(1400, Some(Status::Processing), Status::Completed),
            // A redelivery changes a job that has ended; it does not end again.
            moved(1450, Some(Status::Failed), Status::Completed),
            fault(1600, "kill_worker"),
            fault(1500, "flushall"),
            footprint(1700, "storm"),
        ]);
        assert_eq!(course.interval_ms, 250);
        let points: Vec<_> = course
            .points
            .iter()
            .map(|it| {
                (
                    it.at_ms,
                    it.accepted,
                    it.refused,
                    it.delivered,
                    it.ended,
                    it.unfinished,
                )
            })
            .collect();
        assert_eq!(
            points,
            [
                (0, 1, 0, 0, 0, 2),
                (250, 0, 1, 1, 1, 1),
                (500, 0, 0, 0, 0, 1)
            ]
        );
        let faults: Vec<_> = course
            .faults
            .iter()
            .map(|it| {
                (
                    it.kind.as_str(),
                    it.at_ms,
                    it.healed_ms,
                    it.in_flight,
                    it.kill,
                )
            })
            .collect();
        assert_eq!(
            faults,
            [
                ("flushall", 500, 800, 7, false),
                ("kill_worker", 600, 900, 7, true)
            ]
        );
        let parts: Vec<_> = course
            .parts
            .iter()
            .map(|it| (it.part.as_str(), it.at_ms))
            .collect();
        assert_eq!(parts, [("storm", 700)]);
    }

    #[test]
    fn a_run_of_hours_has_no_more_points() {
        let course = Course::of(&[fault(0, "flushall"), fault(10_000_000, "flushall")]);
        let points = u64::try_from(course.points.len()).unwrap();
        assert!(points <= MAX_POINTS && points > MAX_POINTS / 2, "{points}");
        assert_eq!(
            course.points.last().unwrap().at_ms / course.interval_ms,
            points - 1
        );
    }

    #[test]
    fn without_a_request_and_a_fault_it_is_empty() {
        assert_eq!(Course::of(&[footprint(0, "start")]), Course::default());
    }
}
