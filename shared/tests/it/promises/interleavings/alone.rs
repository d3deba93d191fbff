//! Sequential operations: each answer and all rows are compared with the model's.

use std::time::Duration;

use jiff::Timestamp;
use proptest::{prelude::*, test_runner::TestCaseResult};
use storm_shared::{
    models::{RequestId, Status},
    services::store::{DueJobs, OwnerId, Store},
};

use super::{
    HOUR,
    call::{self, Answer, Call},
    history,
    memory::Memory,
    model::Model,
    operation::{Case, Operation, What},
    pending,
};
use crate::database::{Due, Engine, Row, TestDatabase};

/// How far the store's clock and the wall clock may be apart within a test, in milliseconds.
const CLOCKS_APART: i64 = 1000;

struct World {
    store: Store,
    database: TestDatabase,
    model: Model,
    memory: Memory,
}

/// Runs `case`, then lets one worker finish all remaining jobs.
pub(super) async fn play(engine: Engine, case: Case) -> TestCaseResult {
    let database = TestDatabase::fresh(engine).await;
    let store = database.open().await;
    database.record_history().await;
    let mut world = World {
        store,
        database,
        model: Model::default(),
        memory: Memory::new(Timestamp::now() - HOUR),
    };
    let workers = std::iter::repeat_n(Operation::Register, case.workers);
    let jobs = std::iter::repeat_n(Operation::Accept, case.jobs);
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
    /// Makes the call and compares the answer and the table.
    async fn call(&mut self, call: &Call) -> Result<Answer, TestCaseError> {
        let begun = Timestamp::now();
        let answer = call.on(&self.store).await;
        if let (Call::FindDue(limit), Answer::Found(found)) = (call, &answer) {
            self.compare_found(*limit, begun, found)?;
        } else {
            prop_assert_eq!(&answer, &self.model.call(call), "{:?}", call);
        }
        self.memory.learn(call, &answer);
        self.compare_table(begun, call).await?;
        self.compare_backlog().await?;
        Ok(answer)
    }

    async fn compare_table(&mut self, begun: Timestamp, call: &Call) -> TestCaseResult {
        let rows = self.database.rows().await;
        for (id, row) in &mut self.model.jobs {
            let found = rows.get(id).and_then(|row| row.due);
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
        prop_assert_eq!(&rows, &self.model.jobs, "after {:?}", call);
        prop_assert_eq!(
            &self.database.workers().await,
            &self.model.workers,
            "after {:?}",
            call
        );
        prop_assert_eq!(self.database.lost().await, [], "after {:?}", call);
        Ok(())
    }

    /// Every claimable job is found, and so is the time when the next one becomes due.
    async fn compare_backlog(&self) -> TestCaseResult {
        let (limit, now) = (1000, Timestamp::now());
        let found = call::claimable(&self.store, limit).await.unwrap();
        self.compare_found(limit, now, &found)
    }

    fn compare_found(&self, limit: usize, now: Timestamp, found: &DueJobs) -> TestCaseResult {
        // Jobs wait for an hour or not at all, so a minute decides what is due.
        let soon = now + Duration::from_mins(1);
        let due = found.due.iter();
        let due = due.map(|candidate| self.model.jobs[&candidate.id].due.unwrap());
        let (expected, next_due) = self.model.find(limit, Due::At(soon.as_millisecond()));
        prop_assert_eq!(due.collect::<Vec<_>>(), expected);
        prop_assert_eq!(found.next_due.is_some(), next_due.is_some());
        if let (Some(wait), Some(Due::At(at))) = (found.next_due, next_due) {
            let expected = u64::try_from(at - now.as_millisecond()).unwrap();
            let apart = Duration::from_millis(expected).abs_diff(wait);
            prop_assert!(
                apart < Duration::from_mins(1),
                "{wait:?}, not {expected} ms"
            );
        }
        for candidate in &found.due {
            let row = &self.model.jobs[&candidate.id];
            prop_assert_eq!(row.status, Status::Pending);
            prop_assert_eq!(
                (row.claim, row.lost_claims),
                (candidate.claims, candidate.lost_claims)
            );
        }
        Ok(())
    }

    /// One live worker is enough, in any state: it expires the leases of all others and finishes
    /// every job. After that, no earlier claim can write.
    async fn end_all(&mut self) -> TestCaseResult {
        let worker = OwnerId::generate();
        self.call(&Call::Register(worker)).await?;
        let renewed = self.call(&Call::Renew(worker)).await?;
        let Answer::Others(others) = renewed else {
            return Err(TestCaseError::fail(format!("{renewed:?}")));
        };
        for other in others {
            self.call(&Call::Expire(other, 3)).await?;
        }
        while self.end_some(worker).await? > 0 {}

        let rows = self.database.rows().await;
        let left: Vec<_> = rows.iter().filter(|(_, row)| !row.is_over).collect();
        prop_assert!(left.is_empty(), "left: {:#?}", left);
        for won in self.memory.won().to_owned() {
            let late = self.memory.writing(What::Park, won.attempts);
            let answer = self.call(&Call::Write(won.claim, late)).await?;
            prop_assert_eq!(answer, Answer::ClaimLost);
            // A repeat for some of them: `call` checks that, and that no row changes.
            let late = self.memory.writing(What::GiveUp, won.attempts);
            self.call(&Call::Write(won.claim, late)).await?;
        }
        for (id, row) in &rows {
            self.compare_view(*id, row).await?;
        }
        history::check(&self.database.history().await, &rows)
    }

    /// Finishes some of the backlog and returns how many jobs: those that are due, and at last
    /// those that are not.
    async fn end_some(&mut self, worker: OwnerId) -> Result<usize, TestCaseError> {
        let Answer::Found(mut found) = self.call(&Call::FindDue(3)).await? else {
            panic!("a due query returns jobs");
        };
        if found.due.is_empty() {
            found.due = pending(&self.model.jobs);
        }
        let claim = Call::Claim(worker, found.due.clone());
        let Answer::Won(jobs) = self.call(&claim).await? else {
            return Err(TestCaseError::fail(
                "a worker that just registered has no lease",
            ));
        };
        prop_assert_eq!(
            jobs.len(),
            found.due.len(),
            "every job that was found is claimed"
        );
        for job in &jobs {
            let done = self.memory.writing(What::Complete, job.attempts);
            let answer = self.call(&Call::Write(job.claim, done)).await?;
            prop_assert_eq!(answer, Answer::Done);
        }
        Ok(jobs.len())
    }

    /// The client's view matches the table.
    async fn compare_view(&self, id: RequestId, row: &Row) -> TestCaseResult {
        let seen = self.store.find(id).await.unwrap().unwrap();
        let events = seen
            .events
            .into_iter()
            .map(|event| (event.event, event.claim, event.detail));
        let view = Row {
            status: seen.status,
            claim: seen.claims.into(),
            owner: row.owner, // not shown to clients
            attempts: seen.attempts.last().map_or(0, |last| last.number),
            parks: seen.parks,
            lost_claims: seen.lost_claims,
            result: seen.result_payload.map(|json| json.get().to_owned()),
            due: row.due, // shown by the wall clock
            failure: seen.failure.map(|failure| failure.reason),
            is_over: seen.completed_at.is_some(),
            events: events.collect(),
        };
        prop_assert_eq!(&view, row);
        Ok(())
    }
}
