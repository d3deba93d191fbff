//! Sequential operations: each answer and all rows are compared with the model's.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use jiff::Timestamp;
use proptest::{prelude::*, test_runner::TestCaseResult};
use storm_shared::{
    config::StoreSettings,
    models::{Status, WaitReason},
    services::store::{Candidate, DueJobs, OwnerId, Store, Work},
};

use super::{
    HOUR,
    call::{self, Answer, Call},
    history, left,
    memory::Memory,
    model::Model,
    operation::{Case, Held, Operation, RECEIVERS, What},
    pending,
};
use crate::database::{Due, Parked, TestDatabase};

/// How far the store's clock and the wall clock may be apart within a test, in milliseconds.
const CLOCKS_APART: i64 = 1000;

struct World {
    store: Store,
    database: TestDatabase,
    model: Model,
    memory: Memory,
}

/// Runs `case`, then lets one worker finish all that is left.
pub(super) async fn play(database: Arc<TestDatabase>, case: Case) -> TestCaseResult {
    let database = database.again().await;
    let settings = StoreSettings {
        idempotency_window: if case.keeps_keys {
            HOUR
        } else {
            Duration::ZERO
        },
        ..database.settings()
    };
    let store = Store::open(&settings).await.unwrap();
    database.record_history().await;
    let mut world = World {
        store,
        database,
        model: Model::new(case.keeps_keys),
        memory: Memory::new(Timestamp::now() - HOUR),
    };
    let workers = std::iter::repeat_n(Operation::Register, case.workers);
    let accept = Operation::Accept {
        receiver: Some(0),
        tenant: 0,
    };
    let jobs = std::iter::repeat_n(accept, case.jobs);
    for operation in workers.chain(jobs).chain(case.script.0) {
        if let Some(call) = world.memory.call(operation) {
            world.call(&call).await?;
        }
    }
    world.end_all().await?;
    world.store.close().await;
    Ok(())
}

impl World {
    /// Makes the call and compares the answer and the tables.
    async fn call(&mut self, call: &Call) -> Result<Answer, TestCaseError> {
        let begun = Timestamp::now();
        let answer = self.answer(call).await?;
        self.compare_tables(begun, call).await?;
        self.compare_backlog().await?;
        Ok(answer)
    }

    /// Makes the call and compares the answer.
    async fn answer(&mut self, call: &Call) -> Result<Answer, TestCaseError> {
        let begun = Timestamp::now();
        let answer = call.on(&self.store).await;
        if let (Call::FindDue(limit), Answer::Found(found)) = (call, &answer) {
            self.compare_found(*limit, begun, found)?;
        } else {
            match (&answer, &self.model.call(call)) {
                // The page after it may be named, and empty.
                (Answer::Ended(found, _), Answer::Ended(all, None)) => {
                    prop_assert_eq!(found, all, "{:?}", call);
                }
                (answer, expected) => prop_assert_eq!(answer, expected, "{:?}", call),
            }
        }
        self.memory.learn(call, &answer);
        Ok(answer)
    }

    async fn compare_tables(&mut self, begun: Timestamp, call: &impl Debug) -> TestCaseResult {
        let stored = self.database.tables().await;
        for (key, row) in &mut self.model.tables.rows {
            let found = stored.rows.get(key).and_then(|row| row.due);
            if let (Some(Due::After(wait)), Some(Due::At(at))) = (row.due, found) {
                // The store's clock begins with the wall clock, which nobody sets here.
                let wait = i64::try_from(wait.as_millis()).unwrap();
                let first = begun.as_millisecond() + wait - CLOCKS_APART;
                let last = Timestamp::now().as_millisecond() + wait + CLOCKS_APART;
                prop_assert!(
                    (first..=last).contains(&at),
                    "{at} is not in {first}..={last}"
                );
                row.due = found;
            }
        }
        prop_assert_eq!(&stored, &self.model.tables, "after {:?}", call);
        prop_assert_eq!(self.database.lost().await, [], "after {:?}", call);
        prop_assert_eq!(self.database.leftovers().await, 0, "after {:?}", call);
        Ok(())
    }

    /// All that is claimable is found, and so is the time when the next one becomes due.
    async fn compare_backlog(&self) -> TestCaseResult {
        let (limit, now) = (1000, Timestamp::now());
        let found = call::claimable(&self.store, limit).await.unwrap();
        self.compare_found(limit, now, &found)
    }

    fn compare_found(&self, limit: usize, now: Timestamp, found: &DueJobs) -> TestCaseResult {
        // Jobs wait for an hour or not at all, so a minute decides what is due.
        let soon = now + Duration::from_mins(1);
        let expected = self.model.find(limit, Due::At(soon.as_millisecond()));
        let due_at = |it: &Candidate| self.model.tables.rows[&(it.id, it.work)].due.unwrap();
        let (due, suspects): (Vec<_>, Vec<_>) =
            found.due.iter().partition(|it| it.lost_claims == 0);
        let suspects: Vec<_> = suspects.into_iter().map(due_at).collect();
        prop_assert_eq!(suspects, expected.suspects);
        // The tenants share the limit, and each gets its oldest jobs first.
        let all = expected.due.values().map(Vec::len).sum();
        prop_assert_eq!(due.len(), limit.min(all));
        let mut of_tenants: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for it in due {
            let of_tenant = of_tenants.entry(self.model.tenant(it.id)).or_default();
            of_tenant.push(due_at(it));
        }
        for (tenant, due) in of_tenants {
            prop_assert_eq!(&due[..], &expected.due[&tenant][..due.len()]);
        }
        prop_assert_eq!(found.next_due.is_some(), expected.next.is_some());
        if let (Some(wait), Some(Due::At(at))) = (found.next_due, expected.next) {
            let expected = u64::try_from(at - now.as_millisecond()).unwrap();
            let apart = Duration::from_millis(expected).abs_diff(wait);
            prop_assert!(
                apart < Duration::from_mins(1),
                "{wait:?}, not {expected} ms"
            );
        }
        for candidate in &found.due {
            let row = &self.model.tables.rows[&(candidate.id, candidate.work)];
            prop_assert_eq!(row.status, Status::Pending);
            prop_assert_eq!(
                (row.claim, row.lost_claims),
                (candidate.claims, candidate.lost_claims)
            );
        }
        Ok(())
    }

    /// One live worker is enough, in any state: it expires the leases of all others and finishes
    /// every job and redelivery. After that, no earlier claim can write.
    async fn end_all(&mut self) -> TestCaseResult {
        self.compare_views().await?;
        self.call(&Call::Resume(Held::Everything)).await?;
        for receiver in RECEIVERS {
            self.call(&Call::Resume(Held::Origin(receiver))).await?;
            self.call(&Call::Release(receiver)).await?;
        }
        let worker = OwnerId::generate();
        self.call(&Call::Register(worker)).await?;
        let renewed = self.call(&Call::Renew(worker)).await?;
        let Answer::Others(others, ..) = renewed else {
            return Err(TestCaseError::fail(format!("{renewed:?}")));
        };
        for other in others {
            self.call(&Call::Expire(other, 3)).await?;
        }
        while self.end_some(worker).await? > 0 {}

        let tables = self.database.tables().await;
        let left = left(&tables.rows);
        prop_assert!(left.is_empty(), "left: {:#?}", left);
        for won in self.memory.won().to_owned() {
            let late = self
                .memory
                .writing(What::Park(Duration::ZERO), won.attempts);
            let answer = self.answer(&Call::Write(won.claim, late)).await?;
            prop_assert_eq!(answer, Answer::ClaimLost);
            // A repeat for some of them.
            let late = self.memory.writing(What::GiveUp, won.attempts);
            self.answer(&Call::Write(won.claim, late)).await?;
        }
        let now = Timestamp::now();
        self.compare_tables(now, &"late writes").await?;
        self.compare_views().await?;
        let (history, ever) = (self.database.history().await, self.database.ever().await);
        history::check(&history, &tables, &ever)
    }

    /// Finishes some of the backlog and returns how much: what is due, and at last what is not.
    async fn end_some(&mut self, worker: OwnerId) -> Result<usize, TestCaseError> {
        let Answer::Found(mut found) = self.call(&Call::FindDue(3)).await? else {
            panic!("a due query returns jobs");
        };
        if found.due.is_empty() {
            found.due = pending(&self.model.tables.rows);
        }
        let claim = Call::Claim(worker, found.due.clone());
        let Answer::Won(jobs, false) = self.call(&claim).await? else {
            return Err(TestCaseError::fail(
                "a worker that just registered has no lease",
            ));
        };
        prop_assert_eq!(jobs.len(), found.due.len(), "all that was found is claimed");
        for job in &jobs {
            let done = self.memory.writing(What::Complete, job.attempts);
            let answer = self.call(&Call::Write(job.claim, done)).await?;
            prop_assert_eq!(answer, Answer::Done);
        }
        Ok(jobs.len())
    }

    /// The view that the client has of each request matches the tables. What is under way is its
    /// redelivery, if there is one.
    async fn compare_views(&self) -> TestCaseResult {
        let tables = &self.model.tables;
        let jobs = tables.rows.iter().filter(|(key, _)| key.1 == Work::Job);
        for ((id, _), job) in jobs {
            let seen = self.store.find(*id).await.unwrap().unwrap();
            let redelivery = tables.rows.get(&(*id, Work::Redelivery));
            let current = redelivery.unwrap_or(job);
            prop_assert_eq!(seen.status, job.status);
            prop_assert_eq!(seen.redelivery, redelivery.map(|row| row.status));
            prop_assert_eq!(i64::from(seen.claims), current.claim);
            prop_assert_eq!(
                (seen.lost_claims, seen.parks),
                (current.lost_claims, current.parks)
            );
            let result = seen.result_payload.map(|json| json.get().to_owned());
            prop_assert_eq!(&result, &job.result);
            prop_assert_eq!(seen.failure.map(|failure| failure.reason), job.failure);
            prop_assert_eq!(seen.completed_at.is_some(), job.is_over);
            prop_assert_eq!(seen.erased_at.is_some(), job.is_erased);
            let is_due = current.due.is_some() && current.claim > 0;
            prop_assert_eq!(seen.next_attempt_at.is_some(), is_due);
            // A pause does not count as parked.
            let is_parked = current.parked == Some(Parked::Since);
            prop_assert_eq!(seen.parked_since.is_some(), is_parked);
            let is_paused = current.status == Status::Pending && self.model.is_held_back(*id);
            let reason = seen.waiting_for.map(|waiting| waiting.reason);
            prop_assert_eq!(reason == Some(WaitReason::Paused), is_paused);

            let attempts = seen.attempts.iter().map(|it| (it.number, it.class));
            let (attempts, numbers) = (attempts.collect::<Vec<_>>(), 1..=current.attempts);
            let made = numbers.map(|number| (number, tables.attempts[&(*id, number)].0));
            prop_assert_eq!(attempts, made.collect::<Vec<_>>());
            let events = seen.events.into_iter();
            let events: Vec<_> = events.map(|it| (it.event, it.claim, it.detail)).collect();
            let recorded = tables.events.get(id).cloned().unwrap_or_default();
            prop_assert_eq!(events, recorded);
        }
        Ok(())
    }
}
