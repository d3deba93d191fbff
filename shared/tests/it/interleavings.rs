//! Any interleaving of accept, claim, crash, expire, give back and finish on the real store keeps its
//! invariants. `PROPTEST_CASES=10000 cargo test interleavings` tries more of them than the hundred or so
//! that fit into a few seconds; a failure prints the shortest interleaving found that shows it.
//!
//! One after the other (`alone`), every answer and every row is compared with a `model`; at the same
//! time, through two stores on one file (`rivals`), with what each caller was told. Of both the table's
//! own `history` is read in the end, in which triggers recorded each change of a row.

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

/// The longest wait that `waiting` is told of; and one that is shorter, one that is longer.
const LONGEST_WAIT: Duration = Duration::from_hours(2);
const HOUR: Duration = Duration::from_hours(1);
const TWO_DAYS: Duration = Duration::from_hours(48);

proptest! {
    #![proptest_config(config(100, "proptest-regressions/alone.txt"))]
    #[test]
    fn any_interleaving_keeps_the_stores_invariants(case in operation::case()) {
        run(alone::play(case))?;
    }
}

proptest! {
    #![proptest_config(config(40, "proptest-regressions/rivals.txt"))]
    #[test]
    fn rivals_on_one_file_keep_the_stores_invariants(scripts in operation::scripts()) {
        run(rivals::play(scripts))?;
    }
}

/// `cases` of them, unless `PROPTEST_CASES` says how many. A case that failed is kept in `regressions`,
/// and tried first from then on.
fn config(cases: u32, regressions: &'static str) -> ProptestConfig {
    let default = ProptestConfig::default();
    let told = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig {
        cases: if told { default.cases } else { cases },
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

/// A moment as the table has it.
fn text(at: Timestamp) -> String {
    format!("{at:.3}")
}
