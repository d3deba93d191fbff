//! One chaos run, from the start of the stack to the verdict.

use std::{collections::HashMap, fs, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use storm_shared::models::RequestId;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    checker::{REDELIVERY, Summary, Verdict, check},
    course::Course,
    endpoint::Endpoint,
    engine::Engine,
    faults::{FaultInjector, InjectedFaults},
    history::{Footprint, HistoryLimits, Record, SubmitAnswer, Submitted},
    journal::Journal,
    load::Load,
    orders::ChaosOrders,
    plan::{FaultKind, Plan},
    receivers::Receivers,
    recovery::{self, Recovery},
    settle::{settle, until_at_rest},
    stack::{CALLBACK_TIMEOUT, MAX_CLAIMS, RETENTION, RETRY_DELAYS, Stack, WORK_RETRY_DELAYS},
    wall_clock::WallClock,
};
use crate::{
    cli::ChaosOptions,
    client::Api,
    output::progress_line,
    signatures::Signatures,
    thresholds::{ChaosFigures, Figures, Judged},
};

/// The number of receivers.
const RECEIVERS: usize = 4;

/// A few more jobs after all others have finished: they trigger the clean-up that happens only with
/// the next write.
const FINAL_JOBS: u64 = 100;
const FINAL_RATE: u32 = 100;

/// How long a busy machine may take until a receiver has read a callback and noted the time.
const READ_WITHIN: Duration = Duration::from_secs(2);

/// The second load is the first divided by this.
const SECOND_LOAD: u64 = 5;

/// A finished run.
#[derive(Debug)]
pub struct Run {
    /// Its result.
    pub result: ChaosResult,
    /// Its history.
    pub records: Vec<Record>,
}

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct ChaosResult {
    /// Its seed.
    pub seed: u64,
    /// The engine of the database.
    #[serde(rename = "store")]
    pub engine: Engine,
    /// The configured duration of fault injection.
    #[serde(rename = "duration_ms", serialize_with = "crate::latency::as_millis")]
    pub duration: Duration,
    /// The configured number of requests in that time.
    pub jobs: u64,
    /// The workers' lease.
    #[serde(rename = "lease_ms", serialize_with = "crate::latency::as_millis")]
    pub lease: Duration,
    /// The duration of the whole run.
    #[serde(rename = "took_ms", serialize_with = "crate::latency::as_millis")]
    pub took: Duration,
    /// The number of kills.
    pub kills: usize,
    /// The number of steps of the services' wall clock; none if this machine can't step it.
    pub clock_steps: Option<usize>,
    /// Requests not sent because of the clients' concurrency limit.
    pub not_sent: u64,
    /// The recovery times.
    pub recovery: Recovery,
    /// The resource sizes.
    pub footprints: Vec<Footprint>,
    /// Whether a signal interrupted the run. Its history is not checked, because the jobs had no
    /// time to end.
    pub interrupted: bool,
    /// Violations outside of the history: a process that exited by itself or uncleanly, or an
    /// invalid response.
    pub violations: Vec<String>,
    /// The verdict on the history.
    pub verdict: Verdict,
    /// The conditions of `--fail-if`; none if the run was interrupted.
    pub thresholds: Vec<Judged>,
    /// What was accepted, delivered and broken when.
    pub course: Course,
}

impl ChaosResult {
    /// Whether there is no violation. Thresholds have a verdict of their own,
    /// [`hold`](crate::thresholds::hold).
    pub fn passed(&self) -> bool {
        !self.interrupted && self.violations.is_empty() && self.verdict.passed()
    }
}

/// Runs the stack under load and faults, and checks the history. `shutdown` interrupts the run.
/// Returns none if it was shut down before its first request.
///
/// The receivers verify callbacks with `signatures`. Like the workers' secrets they come from the
/// environment.
///
/// # Errors
/// The run can't be completed: a program is missing, the folder is not empty, or the stack can't be
/// started or restarted.
pub async fn run(
    options: &ChaosOptions,
    signatures: Signatures,
    shutdown: &CancellationToken,
) -> Result<Option<Run>> {
    let started = Instant::now();
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(1..1_000_000));
    // Printed first, so that a run that hangs or fails to start can be repeated too.
    progress_line(&format!("seed {seed}"));
    prepare(options)?;
    let wall_clock = match &options.faketime {
        Some(library) => WallClock::steppable(library, &options.dir)?,
        None => WallClock::default(),
    };

    // Whenever the run ends, its processes are killed when the harness is dropped.
    let starting = shutdown.run_until_cancelled(Harness::start(
        options,
        seed,
        signatures,
        wall_clock.clone(),
    ));
    let Some(mut harness) = starting.await.transpose()? else {
        return Ok(None);
    };
    let tested = shutdown.run_until_cancelled(harness.test(options, seed));
    let tested = tested.await.transpose()?;
    let interrupted = tested.is_none();
    let injected = tested.unwrap_or_default();

    // Read after the services have stopped, so that nothing changes any more. In an interrupted run
    // they have not, and only counts are made of the records.
    let records = harness.records(interrupted).await?;
    let mut verdict = check(&records, &harness.limits);
    if interrupted {
        verdict.violations.clear();
    }
    let recovery = recovery::measure(&records, &injected, options.lease);
    let not_sent = harness.load.not_sent();
    let figures = Figures {
        chaos: Some(chaos_figures(&verdict.summary, not_sent, &recovery)),
        ..Figures::default()
    };
    Ok(Some(Run {
        result: ChaosResult {
            thresholds: figures.judge(&options.fail_if, interrupted),
            seed,
            engine: options.engine(),
            duration: options.duration,
            jobs: options.jobs,
            lease: options.lease,
            took: started.elapsed(),
            kills: count(&records, FaultKind::kills),
            clock_steps: wall_clock
                .is_steppable()
                .then(|| count(&records, FaultKind::steps_clock)),
            not_sent,
            recovery,
            footprints: harness.footprints,
            interrupted,
            violations: harness.violations,
            verdict,
            course: Course::of(&records),
        },
        records,
    }))
}

fn chaos_figures(summary: &Summary, not_sent: u64, recovery: &Recovery) -> ChaosFigures {
    let refused: u64 = summary.refused.values().sum();
    let (accepted, unanswered) = (summary.accepted, summary.unanswered);
    // A redelivery was asked for, so its callback is no surprise.
    let repeats = summary.repeats.iter().filter(|(by, _)| *by != REDELIVERY);
    ChaosFigures {
        requests: accepted + refused + unanswered + summary.outcome_unknown + not_sent,
        accepted,
        unanswered,
        outcome_unknown: summary.outcome_unknown,
        not_sent,
        callbacks: summary.callbacks,
        repeated: repeats.map(|(_, count)| count).sum(),
        recovery: recovery.figures(),
    }
}

/// Creates the folder. It must be empty, so that no foreign data is overwritten.
fn prepare(options: &ChaosOptions) -> Result<()> {
    let folder = options.dir.display();
    fs::create_dir_all(&options.dir).with_context(|| format!("can't create {folder}"))?;
    let empty = fs::read_dir(&options.dir)?.next().is_none();
    ensure!(empty, "{folder} is not empty");
    Ok(())
}

fn limits(wall_clock: &WallClock, options: &ChaosOptions) -> HistoryLimits {
    let planned = FaultKind::of(options.engine()).into_iter();
    let planned = planned.filter(|kind| wall_clock.is_steppable() || !kind.steps_clock());
    let kinds = planned.map(|kind| kind.to_string());
    // Without a heartbeat for half a lease a worker begins no attempt, and an attempt has its
    // deadline. What the receiver reads by then can be late on a busy machine.
    let cancel_grace = options.lease / 2 + CALLBACK_TIMEOUT + READ_WITHIN;
    // In a longer run some requests are old before the faults end.
    let deletions = options.duration > RETENTION;
    HistoryLimits::new(&RETRY_DELAYS, MAX_CLAIMS, kinds.collect())
        .with_cancel_grace(cancel_grace)
        .with_handlers(&WORK_RETRY_DELAYS, READ_WITHIN)
        .with_retention(RETENTION, deletions)
}

/// The number of faults of some kinds.
fn count(records: &[Record], which: fn(FaultKind) -> bool) -> usize {
    let counted = |record: &&Record| match record {
        Record::Fault(fault) => FaultKind::named(&fault.kind).is_some_and(which),
        _ => false,
    };
    records.iter().filter(counted).count()
}

/// All parts of a run.
#[derive(Debug)]
struct Harness {
    stack: Stack,
    receivers: Arc<Receivers>,
    endpoint: Endpoint,
    load: Load,
    journal: Journal,
    limits: HistoryLimits,
    /// The number of requests that were due so far.
    sent: u64,
    footprints: Vec<Footprint>,
    violations: Vec<String>,
}

impl Harness {
    async fn start(
        options: &ChaosOptions,
        seed: u64,
        signatures: Signatures,
        wall_clock: WallClock,
    ) -> Result<Self> {
        let limits = limits(&wall_clock, options);
        let journal = Journal::default();
        let orders = ChaosOrders::new(seed);
        let endpoint = Endpoint::start(orders, signatures.clone(), wall_clock.clone()).await?;
        let receivers = Receivers::start(RECEIVERS, orders, signatures, wall_clock.clone());
        let receivers = Arc::new(receivers.await?);
        let stack = Stack::start(options, wall_clock.clone(), endpoint.url()).await?;
        let mut apis = Vec::new();
        for url in stack.urls() {
            let url = url.parse().map_err(anyhow::Error::msg)?;
            apis.push(Api::connect(&url, Some(stack.authorization()?)).await?);
        }
        let operator = stack.operator()?;
        let operators = apis.iter().map(|api| api.authorized_by(operator.clone()));
        let operators = operators.collect();
        Ok(Self {
            load: Load::new(
                apis,
                operators,
                orders,
                &receivers,
                wall_clock,
                journal.clone(),
            ),
            stack,
            receivers,
            endpoint,
            journal,
            limits,
            sent: 0,
            footprints: Vec::new(),
            violations: Vec::new(),
        })
    }

    /// Runs every part of the test. All jobs and services have ended when this returns.
    async fn test(&mut self, options: &ChaosOptions, seed: u64) -> Result<InjectedFaults> {
        self.measure("start").await?;
        let injected = self.storm(options, seed).await?;
        self.measure("storm").await?;
        self.drain().await?;
        self.measure("settled").await?;
        // No faults meanwhile: this load shows whether memory and the database grow with every
        // load.
        let jobs = (options.jobs / SECOND_LOAD).max(FINAL_JOBS);
        self.send(jobs, options.rate()).await;
        self.drain().await?;
        // Before the end: a stopped process has no memory to measure.
        self.measure("again").await?;
        self.end(&injected).await;
        Ok(injected)
    }

    /// Runs the load and the fault injection. The load continues until the last fault has healed.
    async fn storm(&mut self, options: &ChaosOptions, seed: u64) -> Result<InjectedFaults> {
        let load = self.load.clone();
        let _polling = AbortOnDropHandle::new(tokio::spawn({
            let load = load.clone();
            async move { load.poll_random(seed).await }
        }));
        let over = CancellationToken::new();
        let sending = async {
            let (jobs, rate) = (options.jobs, options.rate());
            load.send(0..jobs, rate).await;
            let mut sent = jobs;
            // The injector may take longer than `duration`: it goes on until every kind was
            // injected. A fault without load would hit no job.
            while !over.is_cancelled() {
                let second = sent..sent + u64::from(rate);
                sent = second.end;
                load.send(second, rate).await;
            }
            sent
        };
        let redelivering = load.redeliver_random(seed, &over);
        let cancelling = load.cancel_random(seed, &over);
        let erasing = load.erase_random(seed, &over);
        let repeating = load.repeat_random(seed, &over);
        let receivers = Arc::clone(&self.receivers);
        let injector = FaultInjector::new(
            &mut self.stack,
            receivers,
            self.journal.clone(),
            options.lease,
        );
        let breaking = async {
            let injected = injector
                .run(Plan::new(seed, options.engine()), options.duration)
                .await;
            over.cancel();
            injected
        };
        // Boxed: together they are large.
        let pausing = load.pause_random(seed, &over);
        let filtering = load.act_by_filter_random(seed, &over);
        let asking = Box::pin(async {
            tokio::join!(
                redelivering,
                cancelling,
                erasing,
                repeating,
                pausing,
                filtering
            )
        });
        let (sent, injected, _) = tokio::join!(sending, breaking, asking);
        // Later loads continue the numbers. A name that was requested before would break the rule
        // `named`.
        self.sent = sent;
        let injected = injected?;
        self.release_parked().await?;
        Ok(injected)
    }

    /// Pauses and resumes every origin once more. A worker that was killed shortly after a
    /// resumption can have parked some jobs for minutes, as if there had been none. The others
    /// release them after the next one.
    async fn release_parked(&mut self) -> Result<()> {
        self.load.set_origins_paused(true).await;
        self.stack.until_heartbeats().await?;
        self.load.set_origins_paused(false).await;
        Ok(())
    }

    async fn send(&mut self, jobs: u64, rate: u32) {
        let numbers = self.sent..self.sent + jobs;
        self.sent = numbers.end;
        self.load.send(numbers, rate).await;
    }

    /// Waits until all jobs and redeliveries have finished and the stack is idle.
    async fn drain(&mut self) -> Result<()> {
        self.settle().await?;
        self.send(FINAL_JOBS, FINAL_RATE).await;
        self.settle().await?;
        until_at_rest(&self.stack, self.limits.log).await
    }

    async fn settle(&mut self) -> Result<()> {
        let violations = settle(&mut self.stack).await?;
        self.violations.extend(violations);
        Ok(())
    }

    async fn measure(&mut self, moment: &str) -> Result<()> {
        let footprint = self.stack.footprint(moment).await?;
        self.journal.record(Record::Footprint(footprint.clone()));
        self.footprints.push(footprint);
        Ok(())
    }

    /// Repeats the requests with idempotency keys, polls the jobs without a callback, and stops the
    /// services.
    async fn end(&mut self, injected: &InjectedFaults) {
        // Those whose window is not over: the first answer still counts.
        self.load.repeat_keyed().await;
        self.load.poll_jobs_without_callback().await;
        self.violations.extend(self.stack.stop().await);
        self.violations.extend(injected.violations.iter().cloned());
        let unexpected = self.load.take_unexpected().into_iter();
        let unexpected = unexpected.chain(self.receivers.take_unexpected());
        let unexpected = unexpected.chain(self.endpoint.take_unexpected());
        self.violations
            .extend(unexpected.map(|what| format!("an invalid response or callback: {what}")));
    }

    /// The whole history.
    async fn records(&self, interrupted: bool) -> Result<Vec<Record>> {
        let mut records = vec![Record::Limits(self.limits.clone())];
        records.append(&mut self.journal.take());
        match self.stack.audit.records().await {
            Ok(mut audited) => records.append(&mut audited),
            // A server may have been down when the run was interrupted.
            Err(_) if interrupted => {}
            Err(error) => return Err(error),
        }
        let names = names(&records);
        let delivered = self.receivers.take_callbacks().into_iter();
        records.extend(delivered.map(|delivered| Record::Received(delivered.received(&names))));
        let read = self.endpoint.take_requests().into_iter();
        records.extend(read.map(|read| Record::WorkRequest(read.recorded(&names))));
        Ok(records)
    }
}

/// The report name of each job: from its `202`, or from its row if there was no response.
fn names(records: &[Record]) -> HashMap<RequestId, String> {
    let submitted = records.iter().filter_map(|record| match record {
        Record::Submitted(Submitted {
            answer: SubmitAnswer::Accepted(id),
            report_name,
            ..
        }) => Some((*id, report_name.clone())),
        _ => None,
    });
    let rows = records.iter().filter_map(|record| match record {
        Record::Row(row) => Some((row.id, row.report_name.clone())),
        _ => None,
    });
    // Later entries win, so the client's own request takes precedence over the row under test.
    rows.chain(submitted).collect()
}
