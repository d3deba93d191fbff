//! The figures that a threshold can name, and how each is read from what a run has measured.

use std::time::Duration;

use crate::{
    answers::{AnswerSummary, FailureCounts},
    latency::Percentiles,
};

/// The recovery that only one of the engines has.
pub(super) const PROMOTION: &str = "recovery.promotion";

/// What a run has measured; none of what its command does not measure.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The requests of a storm.
    pub requests: Option<RequestFigures>,
    /// The requests of a demo to `/sync`.
    pub sync: Option<RequestFigures>,
    /// The requests of a demo to `/async`.
    pub ack: Option<RequestFigures>,
    /// The jobs of a storm or a demo.
    pub jobs: Option<JobFigures>,
    /// The requests, jobs and recovery times of a chaos run.
    pub chaos: Option<ChaosFigures>,
}

/// What was measured of the requests to one endpoint.
#[derive(Clone, Debug)]
pub struct RequestFigures {
    /// The answers.
    pub answers: AnswerSummary,
    /// Successful answers per second.
    pub ok_per_s: f64,
}

/// What was measured of jobs.
#[derive(Clone, Copy, Debug)]
pub struct JobFigures {
    /// The times to completion: until the callback arrived, or, of polled jobs, until the job was
    /// completed, by the API's clock.
    pub completion: Option<Percentiles>,
    /// The same, minus the duration of the work.
    pub lateness: Option<Percentiles>,
    /// Jobs with a `202`.
    pub accepted: u64,
    /// Those that were completed correctly.
    pub right: u64,
    /// Those that did not end in time.
    pub lost: u64,
    /// Those with a wrong result.
    pub wrong: u64,
    /// Those that failed.
    pub failed: u64,
    /// Repeated callbacks.
    pub repeated: u64,
    /// Callbacks of jobs that no `202` had.
    pub unexpected: u64,
    /// Completed jobs per second.
    pub completed_per_s: f64,
}

/// What was measured in a chaos run.
#[derive(Clone, Copy, Debug)]
pub struct ChaosFigures {
    /// Requests that were due.
    pub requests: u64,
    /// Those with a `202`.
    pub accepted: u64,
    /// Those without an answer.
    pub unanswered: u64,
    /// Those that were told that their outcome is unknown.
    pub outcome_unknown: u64,
    /// Those that were not sent: the clients' limit of concurrent requests was reached.
    pub not_sent: u64,
    /// Callbacks that receivers read.
    pub callbacks: u64,
    /// Those that were repeats.
    pub repeated: u64,
    /// The longest times from a fault to the next claim of a job, by kind of fault; none if no job
    /// waited for one.
    pub recovery: RecoveryFigures,
}

/// The longest recovery times.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecoveryFigures {
    /// After the kill of a worker.
    pub kill: Option<Duration>,
    /// The same, while another worker was disrupted, too.
    pub kills: Option<Duration>,
    /// After the freeze of a worker.
    pub freeze: Option<Duration>,
    /// After `FLUSHALL`.
    pub flush: Option<Duration>,
    /// After a failover of Redis.
    pub failover: Option<Duration>,
    /// After the promotion of the database's standby.
    pub promotion: Option<Duration>,
}

/// A figure and its name.
#[derive(Debug)]
pub(super) struct Named<T: 'static> {
    pub(super) name: &'static str,
    pub(super) of: Of<T>,
}

/// How a figure is read.
#[derive(Debug)]
pub(super) enum Of<T> {
    Time(fn(&T) -> Option<Duration>),
    /// A count, and the number of those that it is a part of.
    Count {
        count: fn(&T) -> u64,
        whole: fn(&T) -> u64,
    },
    /// Per second.
    Rate(fn(&T) -> f64),
}

impl<T> Named<T> {
    const fn time(name: &'static str, time: fn(&T) -> Option<Duration>) -> Self {
        let of = Of::Time(time);
        Self { name, of }
    }

    const fn rate(name: &'static str, rate: fn(&T) -> f64) -> Self {
        let of = Of::Rate(rate);
        Self { name, of }
    }
}

impl RequestFigures {
    /// The names of counts are those of the columns of `--csv`, and `errors` is the sum of all
    /// kinds: `failed` is of jobs.
    pub(super) const NAMED: &[Named<Self>] = &[
        Named::time("p50", |it| latency(it, |times| times.p50)),
        Named::time("p95", |it| latency(it, |times| times.p95)),
        Named::time("p99", |it| latency(it, |times| times.p99)),
        Named::time("p99.9", |it| latency(it, |times| times.p999)),
        Named::time("max", |it| latency(it, |times| times.max)),
        Self::count("ok", |it| it.answers.ok),
        Self::count("errors", |it| it.answers.failed.total()),
        Self::count("refused", |it| failed(it).refused),
        Self::count("timeout", |it| failed(it).timeout),
        Self::count("other_status", |it| failed(it).other_status),
        Self::count("connection", |it| failed(it).connection),
        Self::count("wrong_answer", |it| failed(it).wrong_answer),
        Self::count("not_sent", |it| failed(it).not_sent),
        Self::count("outcome_unknown", |it| failed(it).outcome_unknown),
        Named::rate("ok_per_s", |it| it.ok_per_s),
    ];

    /// A part of the requests that were due.
    const fn count(name: &'static str, count: fn(&Self) -> u64) -> Named<Self> {
        let whole = |it: &Self| it.answers.requests;
        let of = Of::Count { count, whole };
        Named { name, of }
    }
}

impl JobFigures {
    pub(super) const NAMED: &[Named<Self>] = &[
        Named::time("callback.p50", |it| Some(it.completion?.p50)),
        Named::time("callback.p95", |it| Some(it.completion?.p95)),
        Named::time("callback.p99", |it| Some(it.completion?.p99)),
        Named::time("callback.p99.9", |it| Some(it.completion?.p999)),
        Named::time("callback.max", |it| Some(it.completion?.max)),
        Named::time("lateness.p50", |it| Some(it.lateness?.p50)),
        Named::time("lateness.p95", |it| Some(it.lateness?.p95)),
        Named::time("lateness.p99", |it| Some(it.lateness?.p99)),
        Named::time("lateness.p99.9", |it| Some(it.lateness?.p999)),
        Named::time("lateness.max", |it| Some(it.lateness?.max)),
        Self::count("accepted", |it| it.accepted),
        Self::count("right", |it| it.right),
        Self::count("lost", |it| it.lost),
        Self::count("wrong", |it| it.wrong),
        Self::count("failed", |it| it.failed),
        Self::count("repeated", |it| it.repeated),
        Self::count("unexpected", |it| it.unexpected),
        Named::rate("completed_per_s", |it| it.completed_per_s),
    ];

    /// A part of the accepted jobs.
    const fn count(name: &'static str, count: fn(&Self) -> u64) -> Named<Self> {
        let whole = |it: &Self| it.accepted;
        let of = Of::Count { count, whole };
        Named { name, of }
    }
}

impl ChaosFigures {
    pub(super) const NAMED: &[Named<Self>] = &[
        Self::request("accepted", |it| it.accepted),
        Self::request("unanswered", |it| it.unanswered),
        Self::request("outcome_unknown", |it| it.outcome_unknown),
        Self::request("not_sent", |it| it.not_sent),
        Named {
            name: "repeated",
            of: Of::Count {
                count: |it| it.repeated,
                whole: |it| it.callbacks,
            },
        },
        Named::time("recovery.kill", |it| it.recovery.kill),
        Named::time("recovery.kills", |it| it.recovery.kills),
        Named::time("recovery.freeze", |it| it.recovery.freeze),
        Named::time("recovery.flush", |it| it.recovery.flush),
        Named::time("recovery.failover", |it| it.recovery.failover),
        Named::time(PROMOTION, |it| it.recovery.promotion),
    ];

    /// A part of the requests that were due.
    const fn request(name: &'static str, count: fn(&Self) -> u64) -> Named<Self> {
        let whole = |it: &Self| it.requests;
        let of = Of::Count { count, whole };
        Named { name, of }
    }
}

fn latency(figures: &RequestFigures, of: fn(Percentiles) -> Duration) -> Option<Duration> {
    figures.answers.latency.map(of)
}

fn failed(figures: &RequestFigures) -> &FailureCounts {
    &figures.answers.failed
}
