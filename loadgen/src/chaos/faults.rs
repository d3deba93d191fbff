//! Fault injection: injects the planned faults one after another under load, and heals them.

mod inject;
#[cfg(feature = "postgres")]
mod postgres;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use jiff::Timestamp;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    clock,
    history::{Fault, Record},
    journal::Journal,
    plan::{FaultKind, Plan, PlannedFault},
    receivers::{ReceiverMode, Receivers},
    stack::Stack,
};
use crate::output::progress_line;

/// How long a fault waits for unfinished jobs before it is injected.
const JOB_WAIT: Duration = Duration::from_secs(10);

/// How often the number of unfinished jobs is read.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A worker that was killed or frozen, for the recovery times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoppedWorker {
    pub(super) at: Timestamp,
    /// Claims lost after this moment have another cause.
    pub(super) until: Timestamp,
    pub(super) worker: usize,
    /// The owner id of its claims.
    pub(super) owner: String,
}

/// A moment after which a worker could not reclaim another worker's jobs for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Disruption {
    pub(super) worker: usize,
    pub(super) at: Timestamp,
}

/// The injected faults, in more detail than in the journal.
#[derive(Debug, Default)]
pub(super) struct InjectedFaults {
    /// Workers that were killed.
    pub(super) killed: Vec<StoppedWorker>,
    /// Workers that were frozen.
    pub(super) frozen: Vec<StoppedWorker>,
    /// Disruptions of any worker: kills, freezes, deploys and full disks.
    pub(super) disruptions: Vec<Disruption>,
    /// When Redis was flushed.
    pub(super) flushed: Vec<Timestamp>,
    /// When Redis failed over.
    pub(super) failed_over: Vec<Timestamp>,
    /// When the primary of the database was killed, and its standby promoted.
    pub(super) promoted: Vec<Timestamp>,
    /// Failures of a process that no injected fault caused.
    pub(super) violations: Vec<String>,
}

/// Injects the faults of a plan.
#[derive(Debug)]
pub(super) struct FaultInjector<'a> {
    stack: &'a mut Stack,
    receivers: Arc<Receivers>,
    journal: Journal,
    lease: Duration,
    started: Instant,
    injected: InjectedFaults,
    /// How often the clock was stepped back, and forward.
    clock_steps: [usize; 2],
    /// Tasks that heal broken receivers. These faults overlap with all others.
    broken_receivers: JoinSet<()>,
    stop: CancellationToken,
}

impl<'a> FaultInjector<'a> {
    pub(super) fn new(
        stack: &'a mut Stack,
        receivers: Arc<Receivers>,
        journal: Journal,
        lease: Duration,
    ) -> Self {
        Self {
            stack,
            receivers,
            journal,
            lease,
            started: Instant::now(),
            injected: InjectedFaults::default(),
            clock_steps: [0; 2],
            broken_receivers: JoinSet::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Runs the plan for `duration`, or longer until every kind was injected once. All faults are
    /// healed when this returns.
    pub(super) async fn run(mut self, plan: Plan, duration: Duration) -> Result<InjectedFaults> {
        let end = self.started + duration;
        let steppable = self.stack.wall_clock.is_steppable();
        let deck = plan.deck();
        let possible = plan.filter(|planned| steppable || !planned.kind.steps_clock());
        for (number, planned) in possible.enumerate() {
            sleep(planned.pause).await;
            // A whole deck contains every kind, as the rule `faults` requires.
            if Instant::now() >= end && number >= deck {
                break;
            }
            // A fault needs its target running, and a crash before the fault must not be taken for
            // its effect.
            self.restart_crashed().await?;
            let in_flight = self.jobs_in_flight().await?;
            self.do_one(planned, in_flight).await;
        }
        // Receivers that are still broken heal now, before the end of their hold: the run can
        // settle only with healthy receivers.
        self.stop.cancel();
        while self.broken_receivers.join_next().await.is_some() {}
        self.restart_crashed().await?;
        Ok(self.injected)
    }

    /// Waits for unfinished jobs, at most `JOB_WAIT`, and returns their number.
    async fn jobs_in_flight(&self) -> Result<u64> {
        let start = Instant::now();
        loop {
            let jobs = self.stack.audit.unfinished().await?;
            if jobs > 0 || start.elapsed() > JOB_WAIT {
                // A timeout is no error here. The rule `faults` reports a fault that hit no job.
                return Ok(jobs);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn restart_crashed(&mut self) -> Result<()> {
        for died in self.stack.restart_crashed().await? {
            self.violation(died);
        }
        Ok(())
    }

    fn violation(&mut self, what: String) {
        say(self.started, &format!("VIOLATION: {what}"));
        self.injected.violations.push(what);
    }

    async fn do_one(&mut self, planned: PlannedFault, in_flight: u64) {
        let fault = Fault {
            at: clock::now(),
            // A placeholder: `record` sets the time when the fault has healed.
            healed_at: Timestamp::UNIX_EPOCH,
            kind: planned.kind.to_string(),
            in_flight,
        };
        let at = fault.at;
        let disrupted = disrupted_workers(planned, self.stack.workers.len());
        let disruptions = disrupted.map(|worker| Disruption { worker, at });
        self.injected.disruptions.extend(disruptions);
        match self.inject(planned, &fault).await {
            Ok(Some(target)) => record(&self.journal, self.started, fault, &target),
            Ok(None) => {} // a receiver fault, which heals on its own
            // If the stack stays broken, the next fault or the settling of the run reports it.
            Err(error) => {
                self.violation(format!("{}: {error:#}", planned.kind));
                record(&self.journal, self.started, fault, "not healed");
            }
        }
    }

    /// Breaks a receiver for the planned time, concurrently with other faults.
    fn break_receiver(&mut self, planned: PlannedFault, mode: ReceiverMode, fault: &Fault) {
        // All receivers are broken already: there is nothing to inject.
        let Some(index) = self.receivers.healthy_from(planned.target) else {
            return;
        };
        self.receivers.set(index, mode);
        let (receivers, journal) = (Arc::clone(&self.receivers), self.journal.clone());
        let (stop, started, fault) = (self.stop.clone(), self.started, fault.clone());
        self.broken_receivers.spawn(async move {
            stop.run_until_cancelled(sleep(planned.hold)).await;
            receivers.set(index, ReceiverMode::Healthy);
            record(&journal, started, fault, &format!("receiver-{}", index + 1));
        });
    }
}

/// The workers that a fault disrupts, of so many.
fn disrupted_workers(planned: PlannedFault, workers: usize) -> impl Iterator<Item = usize> {
    (0..workers).filter(move |worker| match planned.kind {
        FaultKind::KillWorker | FaultKind::FreezeWorker | FaultKind::DeployWorker => {
            *worker == planned.target % workers
        }
        // It may keep workers from writing their heartbeats. After such a gap a worker observes the
        // others for a whole lease before it expires any.
        kind => kind.is_of_database(),
    })
}

/// Records a healed fault in the journal and prints it.
fn record(journal: &Journal, started: Instant, fault: Fault, target: &str) {
    let fault = Fault {
        healed_at: clock::now(),
        ..fault
    };
    let took = fault.healed_at.duration_since(fault.at).as_secs_f64();
    let line = format!(
        "{:<21} {target:<10} {:>4} jobs, {took:>4.1} s", // fits 60 columns
        fault.kind, fault.in_flight
    );
    say(started, &line);
    journal.record(Record::Fault(fault));
}

fn say(started: Instant, line: &str) {
    progress_line(&format!(
        "{:>6.1} s  {line}",
        started.elapsed().as_secs_f64()
    ));
}
