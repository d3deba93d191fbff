//! Concurrent operations: rivals on two stores of one database, so that two writers contend for it.
//! No single answer is predictable, but all answers together must match the table.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use proptest::{prelude::*, test_runner::TestCaseResult};
use storm_shared::{
    models::RequestId,
    services::store::{CancelledWork, Claim, Outcome, OwnerId, Store},
};

use super::{
    HOUR,
    call::{Answer, Call, Submitted, Writing},
    history::{self, End},
    left,
    memory::Memory,
    operation::{Held, Operation, RECEIVERS, Script, Tenant, What},
    pending,
};
use crate::database::{History, Tables, TestDatabase};

/// A caller that runs a script, and the answers it got.
struct Rival {
    store: Store,
    database: Arc<TestDatabase>,
    memory: Memory,
    /// Claims won, and outcomes written.
    claimed: Vec<Claim>,
    ended: Vec<(RequestId, i64, End)>,
    accepted: Vec<RequestId>,
    requeued: usize,
    poisoned: usize,
    redelivered: usize,
    cancelled_jobs: BTreeSet<RequestId>,
    cancelled_redeliveries: Vec<RequestId>,
    deleted: usize,
    /// Which request each submission of a tenant with a key is, in the order of the answers.
    keyed: Vec<((Tenant, u8), RequestId)>,
    /// Of pauses and resumptions: each with whether it has changed anything.
    deeds: Vec<(&'static str, bool)>,
    unparked: usize,
}

/// Runs all `scripts` concurrently, then lets one worker finish all that is left.
pub(super) async fn play(database: Arc<TestDatabase>, scripts: Vec<Script>) -> TestCaseResult {
    let database = Arc::new(database.again().await);
    let stores = [database.open().await, database.open().await];
    database.record_history().await;

    let mut playing = Vec::new();
    for (n, script) in scripts.into_iter().enumerate() {
        let rival = Rival::new(&stores[n % 2], &database, n);
        playing.push(tokio::spawn(rival.play(script)));
    }
    let mut rivals = Vec::new();
    for rival in playing {
        rivals.push(
            rival
                .await
                .map_err(|panic| TestCaseError::fail(panic.to_string()))??,
        );
    }
    let last = Rival::new(&stores[0], &database, rivals.len());
    rivals.push(last.end_all().await?);

    let (history, tables) = (database.history().await, database.tables().await);
    let ever = database.ever().await;
    let left = left(&tables.rows);
    prop_assert!(left.is_empty(), "left: {:#?}", left);
    prop_assert_eq!(database.leftovers().await, 0);
    history::check(&history, &tables, &ever)?;
    compare_pauses(&history, &tables, &rivals)?;
    compare(&history, &ever, rivals)?;
    for store in stores {
        store.close().await;
    }
    Ok(())
}

impl Rival {
    fn new(store: &Store, database: &Arc<TestDatabase>, n: usize) -> Self {
        let apart = Duration::from_mins(1) * u32::try_from(n).unwrap();
        Self {
            store: store.clone(),
            database: Arc::clone(database),
            memory: Memory::new(Timestamp::now() - HOUR + apart),
            claimed: Vec::new(),
            ended: Vec::new(),
            accepted: Vec::new(),
            requeued: 0,
            poisoned: 0,
            redelivered: 0,
            cancelled_jobs: BTreeSet::new(),
            cancelled_redeliveries: Vec::new(),
            deleted: 0,
            keyed: Vec::new(),
            deeds: Vec::new(),
            unparked: 0,
        }
    }

    async fn play(mut self, script: Script) -> Result<Self, TestCaseError> {
        let accept = Operation::Accept {
            receiver: Some(0),
            tenant: 0,
        };
        let to_begin_with = [Operation::Register, accept, accept];
        for operation in to_begin_with.into_iter().chain(script.0) {
            if let Some(call) = self.memory.call(operation) {
                self.call(&call).await?;
            }
        }
        Ok(self)
    }

    async fn call(&mut self, call: &Call) -> Result<Answer, TestCaseError> {
        let answer = call.on(&self.store).await;
        self.memory.learn(call, &answer);
        match (call, &answer) {
            (Call::Accept(id, ..), Answer::Done) => self.accepted.push(*id),
            (Call::Submit(id, it), Answer::Submitted(Submitted::Stored)) => {
                self.accepted.push(*id);
                self.keyed.push(((it.tenant, it.key), *id));
            }
            (Call::Submit(_, it), Answer::Submitted(Submitted::Replayed(id)))
            | (Call::LookUp(it), Answer::Known(Some(Submitted::Replayed(id)))) => {
                self.keyed.push(((it.tenant, it.key), *id));
            }
            (Call::Pause(_), Answer::Changed(changed)) => self.deeds.push(("pause", *changed)),
            (Call::Resume(_), Answer::Changed(changed)) => self.deeds.push(("resume", *changed)),
            (_, Answer::Unparked(jobs)) => self.unparked += jobs,
            (Call::Cancel(id), Answer::Cancelled(Ok((CancelledWork::Job, ..)))) => {
                self.cancelled_jobs.insert(*id);
            }
            (Call::Cancel(id), Answer::Cancelled(Ok((CancelledWork::Redelivery, ..)))) => {
                self.cancelled_redeliveries.push(*id);
            }
            (_, Answer::Swept(deleted)) => self.deleted += deleted,
            (_, Answer::Won(jobs, _)) => {
                for job in jobs {
                    // A repeated claim returns what it has won before.
                    if !self.claimed.contains(&job.claim) {
                        self.claimed.push(job.claim);
                    }
                }
            }
            (Call::Write(claim, writing), Answer::Done) => {
                let end = match writing {
                    Writing::Report(_) => None,
                    Writing::GiveBack(_) => {
                        self.requeued += 1;
                        None
                    }
                    Writing::Retry(..) => Some(End::Scheduled),
                    Writing::Park(..) | Writing::ParkPaused(..) => Some(End::Parked),
                    Writing::End(_, _, Outcome::Completed) => Some(End::Completed),
                    Writing::End(_, _, Outcome::Failed(_)) => Some(End::Failed),
                };
                self.ended
                    .extend(end.map(|end| (claim.id, claim.number, end)));
            }
            (_, Answer::Released(jobs)) => self.requeued += jobs,
            (_, Answer::Redelivery(Ok(()))) => self.redelivered += 1,
            (_, Answer::Begun(redeliveries)) => self.redelivered += redeliveries,
            (_, Answer::Expired(Some(expired))) => {
                self.requeued += expired.reclaimed;
                self.poisoned += expired.poisoned;
            }
            _ => {}
        }
        prop_assert_eq!(self.database.lost().await, [], "after {:?}", call);
        Ok(answer)
    }

    async fn end_all(mut self) -> Result<Self, TestCaseError> {
        self.call(&Call::Resume(Held::Everything)).await?;
        for receiver in RECEIVERS {
            self.call(&Call::Resume(Held::Origin(receiver))).await?;
            self.call(&Call::Release(receiver)).await?;
        }
        let worker = OwnerId::generate();
        self.call(&Call::Register(worker)).await?;
        if let Answer::Others(others, ..) = self.call(&Call::Renew(worker)).await? {
            for other in others {
                self.call(&Call::Expire(other, 3)).await?;
            }
        }
        let left = pending(&self.database.tables().await.rows);
        if let Answer::Won(jobs, _) = self.call(&Call::Claim(worker, left)).await? {
            for job in jobs {
                let done = self.memory.writing(What::Complete, job.attempts);
                self.call(&Call::Write(job.claim, done)).await?;
            }
        }
        Ok(self)
    }
}

/// The answers match the table: nothing was done twice, nothing was done without an answer, and
/// nothing was answered that was not done.
fn compare(history: &History, ever: &Tables, rivals: Vec<Rival>) -> TestCaseResult {
    compare_removals(history, &rivals)?;
    compare_keys(&rivals)?;
    let (mut accepted, mut claimed, mut ended) = (Vec::new(), Vec::new(), Vec::new());
    let (mut requeued, mut poisoned, mut redelivered) = (0, 0, 0);
    for rival in rivals {
        accepted.extend(rival.accepted);
        claimed.extend(rival.claimed);
        ended.extend(rival.ended);
        requeued += rival.requeued;
        poisoned += rival.poisoned;
        redelivered += rival.redelivered;
    }
    let claims = history::claims(history, &ever.attempts);
    let ends = |which: End| claims.iter().filter(move |it| it.end == Some(which));

    accepted.sort();
    prop_assert!(history.keys().eq(&accepted), "accepted: {:#?}", accepted);

    let mut won: Vec<_> = claimed
        .iter()
        .map(|claim| (claim.id, claim.number, Some(claim.owner)))
        .collect();
    won.sort();
    let claims_of_table: Vec<_> = claims
        .iter()
        .map(|it| (it.id, it.number, it.owner))
        .collect();
    prop_assert_eq!(won, claims_of_table);

    // A rival may settle a claim twice, which no worker does, with the same attempt and another
    // outcome. The store takes that for a repeat, so only one of them is in the table.
    let ends_of_table: Vec<_> = [End::Completed, End::Failed, End::Scheduled, End::Parked]
        .into_iter()
        .flat_map(|end| ends(end).map(move |it| (it.id, it.number, end)))
        .collect();
    for end in &ends_of_table {
        prop_assert!(ended.contains(end), "ended without an answer: {end:?}");
        let of_claim = ends_of_table.iter().filter(|it| is_of_claim(it, end));
        prop_assert_eq!(of_claim.count(), 1, "ended twice: {:?}", end);
    }
    for end in &ended {
        let is_repeated = ended.iter().filter(|it| is_of_claim(it, end)).count() > 1;
        let is_in_table =
            |it: &(RequestId, i64, End)| is_of_claim(it, end) && (it.2 == end.2 || is_repeated);
        prop_assert!(
            ends_of_table.iter().any(is_in_table),
            "answered, and not in the table: {end:?}"
        );
    }

    prop_assert_eq!(requeued, ends(End::Requeued).count());
    prop_assert_eq!(poisoned, ends(End::Poisoned).count());
    prop_assert_eq!(redelivered, history::redeliveries(history));
    Ok(())
}

fn is_of_claim(one: &(RequestId, i64, End), other: &(RequestId, i64, End)) -> bool {
    (one.0, one.1) == (other.0, other.1)
}

/// What was cancelled or deleted has an answer that says so, and the other way round. Several
/// answers may say that one job is cancelled.
fn compare_removals(history: &History, rivals: &[Rival]) -> TestCaseResult {
    let (jobs, redeliveries) = history::cancelled(history);
    let told: BTreeSet<_> = rivals.iter().flat_map(|it| &it.cancelled_jobs).collect();
    prop_assert!(jobs.iter().eq(told), "cancelled jobs: {:?}", jobs);
    let told = rivals.iter().flat_map(|it| &it.cancelled_redeliveries);
    let mut told: Vec<_> = told.copied().collect();
    told.sort();
    prop_assert_eq!(told, redeliveries);
    let deleted: usize = rivals.iter().map(|it| it.deleted).sum();
    prop_assert_eq!(deleted, history::deletions(history));
    Ok(())
}

/// A tenant's key whose window is not over has one job, whoever submits it, and no other key has
/// that.
fn compare_keys(rivals: &[Rival]) -> TestCaseResult {
    let mut jobs: BTreeMap<(Tenant, u8), RequestId> = BTreeMap::new();
    for (key, id) in rivals.iter().flat_map(|it| &it.keyed) {
        prop_assert_eq!(jobs.entry(*key).or_insert(*id), id, "two jobs of one key");
    }
    let distinct: BTreeSet<_> = jobs.values().collect();
    prop_assert_eq!(
        distinct.len(),
        jobs.len(),
        "one job of two keys: {:?}",
        jobs
    );
    Ok(())
}

/// Each pause and resumption is in the audit, with the answer that its operator got. Those of one
/// thing that changed something took turns. And what was released has an answer.
fn compare_pauses(history: &History, tables: &Tables, rivals: &[Rival]) -> TestCaseResult {
    let deeds = rivals.iter().flat_map(|it| &it.deeds);
    let mut told: Vec<_> = deeds
        .map(|(what, it)| ((*what).to_owned(), i64::from(*it)))
        .collect();
    let recorded = tables.audit.iter();
    let mut recorded: Vec<_> = recorded.map(|(what, _, it)| (what.clone(), *it)).collect();
    told.sort();
    recorded.sort();
    prop_assert_eq!(told, recorded);
    let mut last: BTreeMap<&str, &str> = BTreeMap::new();
    for (what, of, _) in tables.audit.iter().filter(|(.., changed)| *changed > 0) {
        let before = last.insert(of, what).unwrap_or("resume");
        prop_assert_ne!(before, what, "{} twice of {}", what, of);
    }
    let unparked: usize = rivals.iter().map(|it| it.unparked).sum();
    prop_assert_eq!(unparked, history::releases(history));
    Ok(())
}
