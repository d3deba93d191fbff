//! Property tests: every interleaving of accept, claim, crash, lease expiry, release, finish,
//! redelivery, cancellation, erasure, deletion, pause and resumption keeps the invariants of the
//! real store, for several tenants with the same idempotency keys. The default number of cases
//! takes some ten seconds; `PROPTEST_CASES=10000 cargo test interleavings` tries
//! more. A failure prints the shortest interleaving found that shows it.
//!
//! `alone` runs calls sequentially and compares every answer and every row with a `model`. `rivals`
//! runs them concurrently, through two stores on one database, and compares the tables with the
//! answers that each caller got. Both then check the `history`, in which the database recorded
//! every change of a row. A job and a redelivery are the same kind of row in all of this, with the
//! same rules until they end.

mod alone;
mod call;
mod history;
mod memory;
mod model;
mod operation;
mod rivals;

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use proptest::{
    prelude::*,
    test_runner::{FileFailurePersistence, TestCaseResult, TestRunner},
};
use storm_shared::{models::Status, services::store::Candidate};

use crate::database::{Engine, Key, Row, TestDatabase};

/// Longer than any test takes.
const HOUR: Duration = Duration::from_hours(1);

on_every_engine! {
    any_sequential_interleaving_keeps_the_stores_invariants,
    concurrent_callers_on_one_database_keep_the_stores_invariants,
}

async fn any_sequential_interleaving_keeps_the_stores_invariants(database: TestDatabase) {
    let config = config(database.engine(), 100, "proptest-regressions/alone.txt");
    let database = Arc::new(database);
    hold(config, operation::case(), move |case| {
        alone::play(Arc::clone(&database), case)
    })
    .await;
}

async fn concurrent_callers_on_one_database_keep_the_stores_invariants(database: TestDatabase) {
    let config = config(database.engine(), 40, "proptest-regressions/rivals.txt");
    let database = Arc::new(database);
    hold(config, operation::scripts(), move |scripts| {
        rivals::play(Arc::clone(&database), scripts)
    })
    .await;
}

/// Runs `cases` until one fails, and panics with the smallest one found that fails.
async fn hold<Case, Played>(
    config: ProptestConfig,
    cases: impl Strategy<Value = Case> + Send + 'static,
    play: impl Fn(Case) -> Played + Send + 'static,
) where
    Case: Debug,
    Played: Future<Output = TestCaseResult>,
{
    let playing = move || {
        let mut runner = TestRunner::new(config);
        let played = runner.run(&cases, |case| run(play(case)));
        played.map_err(|failure| format!("{failure}\n{runner}"))
    };
    // The runner blocks its thread, and each case has its own runtime. A runtime's thread allows
    // neither.
    let played = tokio::task::spawn_blocking(playing).await.unwrap();
    played.unwrap_or_else(|failure| panic!("{failure}"));
}

/// `cases` cases, unless `PROPTEST_CASES` is set; half of them for a server, where each takes
/// longer. A failed case is kept in `regressions` and tried first in later
/// runs.
fn config(engine: Engine, cases: u32, regressions: &'static str) -> ProptestConfig {
    let cases = match engine {
        Engine::Sqlite => cases,
        #[cfg(feature = "postgres")]
        Engine::Postgres => cases / 2,
    };
    let default = ProptestConfig::default();
    let is_set = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig {
        cases: if is_set { default.cases } else { cases },
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(regressions))),
        max_shrink_iters: 2000,
        ..default
    }
}

fn run(case: impl Future<Output = TestCaseResult>) -> TestCaseResult {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(case)
}

/// Every `PENDING` job and redelivery, due or not.
fn pending(rows: &BTreeMap<Key, Row>) -> Vec<Candidate> {
    let pending = rows.iter().filter(|(_, row)| row.status == Status::Pending);
    let candidate = |((id, work), row): (&Key, &Row)| Candidate {
        id: *id,
        work: *work,
        claims: row.claim,
        lost_claims: row.lost_claims,
    };
    pending.map(candidate).collect()
}

/// What is not over: jobs, and redeliveries, which are deleted at their end.
fn left(rows: &BTreeMap<Key, Row>) -> Vec<(&Key, &Row)> {
    rows.iter().filter(|(_, row)| !row.is_over).collect()
}
