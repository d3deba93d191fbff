//! Breaks one thing after the other, and heals it, while a load runs.

mod damage;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use jiff::Timestamp;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    history::{Fault, Record},
    journal::Journal,
    plan::{Kind, Plan, Planned},
    receivers::{Manner, Receivers},
    stack::{Stack, WORKERS},
};

/// How long a fault waits for jobs that it can hit.
const PATIENCE_FOR_JOBS: Duration = Duration::from_secs(10);

/// How often it looks for them.
const LOOK: Duration = Duration::from_millis(10);

/// A worker that stopped doing anything at a known moment, for the figures of recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stopped {
    pub(super) at: Timestamp,
    /// Until when it lost its jobs for that reason.
    pub(super) until: Timestamp,
    pub(super) worker: usize,
    /// By which name its claims were signed.
    pub(super) owner: String,
}

/// A moment from which on a worker could not take over another's jobs for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) worker: usize,
    pub(super) at: Timestamp,
}

/// What was done, beside the faults in the journal.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Workers that were killed.
    pub(super) killed: Vec<Stopped>,
    /// Workers that were frozen.
    pub(super) frozen: Vec<Stopped>,
    /// Every worker's troubles: these, deploys, and what all of them share.
    pub(super) troubles: Vec<Trouble>,
    /// When Redis was flushed.
    pub(super) flushed: Vec<Timestamp>,
    /// What went wrong with a process and is nobody's fault but its own.
    pub(super) violations: Vec<String>,
}

/// Who breaks things.
#[derive(Debug)]
pub(super) struct Saboteur<'a> {
    stack: &'a mut Stack,
    receivers: Arc<Receivers>,
    journal: Journal,
    lease: Duration,
    begun: Instant,
    done: Done,
    /// Receivers that misbehave, beside whatever else is broken.
    misbehaving: JoinSet<()>,
    calm: CancellationToken,
}

impl<'a> Saboteur<'a> {
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
            begun: Instant::now(),
            done: Done::default(),
            misbehaving: JoinSet::new(),
            calm: CancellationToken::new(),
        }
    }

    /// Does the plan for so long, or longer, until every kind was done once. When this returns,
    /// everything is healed.
    pub(super) async fn run(mut self, plan: Plan, duration: Duration) -> Result<Done> {
        let end = self.begun + duration;
        for (number, planned) in plan.enumerate() {
            sleep(planned.pause).await;
            if Instant::now() >= end && number >= Plan::DECK {
                break;
            }
            self.revive().await?;
            let in_flight = self.jobs_in_flight().await?;
            self.do_one(planned, in_flight).await;
        }
        self.calm.cancel();
        while self.misbehaving.join_next().await.is_some() {}
        self.revive().await?;
        Ok(self.done)
    }

    /// Waits until there are jobs to be hit, for so long as that makes sense.
    async fn jobs_in_flight(&self) -> Result<u64> {
        let start = Instant::now();
        loop {
            let jobs = self.stack.audit.unfinished().await?;
            if jobs > 0 || start.elapsed() > PATIENCE_FOR_JOBS {
                return Ok(jobs);
            }
            sleep(LOOK).await;
        }
    }

    async fn revive(&mut self) -> Result<()> {
        for died in self.stack.revive().await? {
            self.violation(died);
        }
        Ok(())
    }

    fn violation(&mut self, what: String) {
        say(self.begun, &format!("VIOLATION: {what}"));
        self.done.violations.push(what);
    }

    async fn do_one(&mut self, planned: Planned, in_flight: u64) {
        let fault = Fault {
            at: Timestamp::now(),
            healed_at: Timestamp::UNIX_EPOCH,
            kind: planned.kind.to_string(),
            in_flight,
        };
        let at = fault.at;
        let troubles = troubled_workers(planned).map(|worker| Trouble { worker, at });
        self.done.troubles.extend(troubles);
        match self.damage(planned, &fault).await {
            Ok(Some(target)) => note(&self.journal, self.begun, fault, &target),
            Ok(None) => {} // it goes on beside the others
            // What could not be healed is found by what follows.
            Err(error) => {
                self.violation(format!("{}: {error:#}", planned.kind));
                note(&self.journal, self.begun, fault, "not healed");
            }
        }
    }

    /// A receiver that misbehaves for its time, beside whatever else is done.
    fn misbehave(&mut self, planned: Planned, manner: Manner, fault: &Fault) {
        // Where each does already, one more changes nothing.
        let Some(index) = self.receivers.well_from(planned.target) else {
            return;
        };
        self.receivers.set(index, manner);
        let (receivers, journal) = (Arc::clone(&self.receivers), self.journal.clone());
        let (calm, begun, fault) = (self.calm.clone(), self.begun, fault.clone());
        self.misbehaving.spawn(async move {
            calm.run_until_cancelled(sleep(planned.hold)).await;
            receivers.set(index, Manner::Answers);
            note(&journal, begun, fault, &format!("receiver-{}", index + 1));
        });
    }
}

/// The workers that a fault keeps from their work.
fn troubled_workers(planned: Planned) -> impl Iterator<Item = usize> {
    (0..WORKERS).filter(move |worker| match planned.kind {
        Kind::KillWorker | Kind::FreezeWorker | Kind::DeployWorker => {
            *worker == planned.target % WORKERS
        }
        Kind::DiskFull => true,
        _ => false,
    })
}

/// A fault is over: it stands in the journal, and in a line for whoever looks on.
fn note(journal: &Journal, begun: Instant, fault: Fault, target: &str) {
    let fault = Fault {
        healed_at: Timestamp::now(),
        ..fault
    };
    let took = fault.healed_at.duration_since(fault.at).as_secs_f64();
    let line = format!(
        "{:<22} {target:<11} {:>6} jobs in flight, {took:>5.1} s",
        fault.kind, fault.in_flight
    );
    say(begun, &line);
    journal.note(Record::Fault(fault));
}

fn say(begun: Instant, line: &str) {
    println!("{:>7.1} s  {line}", begun.elapsed().as_secs_f64());
}
