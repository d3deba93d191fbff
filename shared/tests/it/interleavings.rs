//! Property tests: every interleaving of accept, claim, crash, lease expiry, release and finish
//! keeps the invariants of the real store. The default number of cases takes a few seconds;
//! `PROPTEST_CASES=10000 cargo test interleavings` tries more. A failure prints the shortest
//! interleaving found that shows it.
//!
//! `alone` runs calls sequentially and compares every answer and every row with a `model`. `rivals`
//! runs them concurrently, through two stores on one file, and compares the table with the answers
//! that each caller got. Both then check the `history`, in which triggers recorded every change of
//! a row.

mod alone;
mod call;
mod history;
mod memory;
mod model;
mod operation;
mod rivals;
mod table;

use std::time::Duration;

use jiff::Timestamp;
use proptest::{
    prelude::*,
    test_runner::{FileFailurePersistence, TestCaseResult},
};

/// The `longest_wait` of due queries, and delays below and above it.
const LONGEST_WAIT: Duration = Duration::from_hours(2);
const HOUR: Duration = Duration::from_hours(1);
const TWO_DAYS: Duration = Duration::from_hours(48);

proptest! {
    #![proptest_config(config(100, "proptest-regressions/alone.txt"))]
    #[test]
    fn any_sequential_interleaving_keeps_the_stores_invariants(case in operation::case()) {
        run(alone::play(case))?;
    }
}

proptest! {
    #![proptest_config(config(40, "proptest-regressions/rivals.txt"))]
    #[test]
    fn concurrent_callers_on_one_file_keep_the_stores_invariants(scripts in operation::scripts()) {
        run(rivals::play(scripts))?;
    }
}

/// `cases` cases, unless `PROPTEST_CASES` is set. A failed case is kept in `regressions` and tried
/// first in later runs.
fn config(cases: u32, regressions: &'static str) -> ProptestConfig {
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
        .enable_time()
        .build();
    runtime.unwrap().block_on(case)
}

/// A time as stored in the table.
fn text(at: Timestamp) -> String {
    format!("{at:.3}")
}
