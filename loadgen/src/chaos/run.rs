//! A run from its start to the judgement.

use std::{collections::HashMap, fs, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use storm_shared::models::RequestId;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    checker::{Verdict, check},
    faults::{Done, Saboteur},
    history::{Answer, Footprint, Limits, Record, Told},
    journal::Journal,
    load::Load,
    orders::Orders,
    plan::{Kind, Plan},
    receivers::Receivers,
    recovery::{self, Recovery},
    settle::{settle, until_at_rest},
    stack::{ATTEMPTS, MAX_CLAIMS, Stack},
};
use crate::{cli::ChaosOptions, client::Api, signatures::Signatures};

/// How many receivers there are.
const RECEIVERS: usize = 4;

/// After everything has ended: a few more jobs. What is only cleared away by the next write is cleared
/// away then.
const FEW_JOBS: u64 = 100;
const FEW_A_SECOND: u32 = 100;

/// The second load is this part of the first.
const SECOND_LOAD: u64 = 5;

/// A run that was judged.
#[derive(Debug)]
pub struct Run {
    /// What it was, and what is to be said of it.
    pub result: ChaosResult,
    /// Everything that was seen.
    pub records: Vec<Record>,
}

/// What a run was, and what is to be said of it.
#[derive(Clone, Debug, Serialize)]
pub struct ChaosResult {
    /// Its seed.
    pub seed: u64,
    /// How long things were to be broken.
    #[serde(rename = "duration_ms", serialize_with = "crate::latency::as_millis")]
    pub duration: Duration,
    /// Requests that were to fall due meanwhile.
    pub jobs: u64,
    /// The workers' lease.
    #[serde(rename = "lease_ms", serialize_with = "crate::latency::as_millis")]
    pub lease: Duration,
    /// How long the whole run took.
    #[serde(rename = "took_ms", serialize_with = "crate::latency::as_millis")]
    pub took: Duration,
    /// Processes that were killed.
    pub kills: usize,
    /// Requests that could not be sent, for too many were on their way.
    pub not_sent: u64,
    /// How quickly jobs went on.
    pub recovery: Recovery,
    /// How large everything was.
    pub footprints: Vec<Footprint>,
    /// What no history tells: a process that ended by itself, or not in order; a wrong answer.
    pub violations: Vec<String>,
    /// The judgement of the history.
    pub verdict: Verdict,
}

impl ChaosResult {
    /// Whether every promise was kept.
    pub fn passed(&self) -> bool {
        self.violations.is_empty() && self.verdict.passed()
    }
}

/// Runs, and judges.
///
/// The receivers check callbacks by `signatures`, which are those of the environment, as the workers' are.
///
/// # Errors
/// The run could not be made: a program is missing, the folder is not empty, the stack doesn't start
/// or can't be started again.
pub async fn run(options: &ChaosOptions, signatures: Signatures) -> Result<Run> {
    let begun = Instant::now();
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(1..1_000_000));
    println!("seed {seed}");
    prepare(options)?;

    let mut scene = Scene::set(options, seed, signatures).await?;
    scene.measure("start").await?;
    let done = scene.storm(options, seed).await?;
    scene.measure("storm").await?;
    scene.calm_down().await?;
    scene.measure("settled").await?;
    scene
        .send((options.jobs / SECOND_LOAD).max(FEW_JOBS), options.rate())
        .await;
    scene.calm_down().await?;
    scene.measure("again").await?;
    scene.end(&done).await;

    let records = scene.records().await?;
    Ok(Run {
        result: ChaosResult {
            seed,
            duration: options.duration,
            jobs: options.jobs,
            lease: options.lease,
            took: begun.elapsed(),
            kills: kills(&records),
            not_sent: scene.load.not_sent(),
            recovery: recovery::measure(&records, &done, options.lease),
            footprints: scene.footprints,
            violations: scene.violations,
            verdict: check(&records, &limits()),
        },
        records,
    })
}

/// A folder that somebody uses is not ours to fill.
fn prepare(options: &ChaosOptions) -> Result<()> {
    let folder = options.dir.display();
    fs::create_dir_all(&options.dir).with_context(|| format!("can't make {folder}"))?;
    let empty = fs::read_dir(&options.dir)?.next().is_none();
    ensure!(empty, "{folder} is not empty");
    Ok(())
}

fn limits() -> Limits {
    let kinds = Kind::ALL.map(|kind| kind.to_string());
    Limits::new(ATTEMPTS, MAX_CLAIMS, kinds.to_vec())
}

fn kills(records: &[Record]) -> usize {
    let kill = |record: &&Record| match record {
        Record::Fault(fault) => Kind::ALL
            .iter()
            .any(|kind| kind.kills() && kind.as_str() == fault.kind),
        _ => false,
    };
    records.iter().filter(kill).count()
}

/// Everything that takes part in a run.
#[derive(Debug)]
struct Scene {
    stack: Stack,
    receivers: Arc<Receivers>,
    load: Load,
    journal: Journal,
    /// Requests that have fallen due so far.
    sent: u64,
    footprints: Vec<Footprint>,
    violations: Vec<String>,
}

impl Scene {
    async fn set(options: &ChaosOptions, seed: u64, signatures: Signatures) -> Result<Self> {
        let journal = Journal::default();
        let orders = Orders::new(seed);
        let receivers = Arc::new(Receivers::start(RECEIVERS, orders, signatures).await?);
        let stack = Stack::start(options).await?;
        let url = stack.url().parse().map_err(anyhow::Error::msg)?;
        let api = Api::connect(&url, Some(stack.authorization()?)).await?;
        Ok(Self {
            load: Load::new(api, orders, receivers.urls(), journal.clone()),
            stack,
            receivers,
            journal,
            sent: 0,
            footprints: Vec::new(),
            violations: Vec::new(),
        })
    }

    /// The load, while things are broken. It goes on for as long as they are.
    async fn storm(&mut self, options: &ChaosOptions, seed: u64) -> Result<Done> {
        let load = self.load.clone();
        let _looking = AbortOnDropHandle::new(tokio::spawn({
            let load = load.clone();
            async move { load.look_around(seed).await }
        }));
        let over = CancellationToken::new();
        let sending = async {
            let (jobs, rate) = (options.jobs, options.rate());
            load.send(0..jobs, rate).await;
            let mut sent = jobs;
            while !over.is_cancelled() {
                let second = sent..sent + u64::from(rate);
                sent = second.end;
                load.send(second, rate).await;
            }
            sent
        };
        let receivers = Arc::clone(&self.receivers);
        let saboteur = Saboteur::new(
            &mut self.stack,
            receivers,
            self.journal.clone(),
            options.lease,
        );
        let breaking = async {
            let done = saboteur.run(Plan::new(seed), options.duration).await;
            over.cancel();
            done
        };
        let (sent, done) = tokio::join!(sending, breaking);
        self.sent = sent;
        done
    }

    async fn send(&mut self, jobs: u64, rate: u32) {
        let numbers = self.sent..self.sent + jobs;
        self.sent = numbers.end;
        self.load.send(numbers, rate).await;
    }

    /// Until everything has ended, and a little longer.
    async fn calm_down(&mut self) -> Result<()> {
        self.settle().await?;
        self.send(FEW_JOBS, FEW_A_SECOND).await;
        self.settle().await?;
        until_at_rest(&self.stack, limits().log).await
    }

    async fn settle(&mut self) -> Result<()> {
        let violations = settle(&mut self.stack).await?;
        self.violations.extend(violations);
        Ok(())
    }

    async fn measure(&mut self, moment: &str) -> Result<()> {
        let footprint = self.stack.footprint(moment).await?;
        self.journal.note(Record::Footprint(footprint.clone()));
        self.footprints.push(footprint);
        Ok(())
    }

    /// Looks at what nobody was called back for, and ends the services in order.
    async fn end(&mut self, done: &Done) {
        self.load.look_at_polled().await;
        self.violations.extend(self.stack.stop().await);
        self.violations.extend(done.violations.iter().cloned());
        let strange = self.load.take_strange().into_iter();
        let strange = strange.chain(self.receivers.take_strange());
        self.violations
            .extend(strange.map(|what| format!("a wrong answer or callback: {what}")));
    }

    /// Everything that was seen, by anyone.
    async fn records(&self) -> Result<Vec<Record>> {
        let mut records = vec![Record::Limits(limits())];
        records.append(&mut self.journal.take());
        records.append(&mut self.stack.audit.records().await?);
        let names = names(&records);
        let heard = self.receivers.take_heard().into_iter();
        records.extend(heard.map(|heard| Record::Received(heard.received(&names))));
        Ok(records)
    }
}

/// Which report each job is to make: as its client was told, or for want of an answer as its row says.
fn names(records: &[Record]) -> HashMap<RequestId, String> {
    let told = records.iter().filter_map(|record| match record {
        Record::Told(Told {
            answer: Answer::Accepted(id),
            report_name,
            ..
        }) => Some((*id, report_name.clone())),
        _ => None,
    });
    let rows = records.iter().filter_map(|record| match record {
        Record::Row(row) => Some((row.id, row.report_name.clone())),
        _ => None,
    });
    rows.chain(told).collect()
}
