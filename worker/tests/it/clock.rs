//! The wall clock is set while jobs wait. libfaketime stands between the worker and the clock.

use std::{fs, time::Duration};

use storm_shared::models::Status;
use tokio::time::timeout;

use crate::{faketime, receiver::Receiver, rows::Rows as _, table::Table};

/// Longer than a busy machine needs, and shorter than any wait that a step could cause.
const PATIENCE: Duration = Duration::from_mins(2);

#[tokio::test]
async fn setting_the_clock_neither_delays_a_retry_nor_hastens_it() {
    let Some(library) = faketime::library() else {
        return;
    };
    for step in ["-30m", "-3d", "+3d"] {
        let table = Table::new().await;
        let clock = table.folder.path().join("clock");
        fs::write(&clock, "+0").unwrap();
        let mut settings = faketime::environment(&library, &clock).to_vec();
        settings.push(("CALLBACK_RETRY_DELAYS", "1s,1h"));
        let _worker = table.worker(&settings);
        let failing = Receiver::answering(|_, _| 500).await;
        let later = table.accept(1, Some(failing.url())).await;
        table.row_when(later, |row| row.attempts.len() == 2).await;

        // A job whose first attempt fails. The clock is set while it waits for its second.
        let retried = async |clock_says: &str| {
            let receiver = Receiver::answering(|nth, _| if nth == 0 { 500 } else { 200 }).await;
            let soon = table.accept(1, Some(receiver.url())).await;
            table.row_when(soon, |row| row.attempts.len() == 1).await;
            fs::write(&clock, clock_says).unwrap();
            let row = timeout(PATIENCE, table.ended(soon)).await.expect(step);
            assert_eq!((row.status, row.lost_claims), (Status::Completed, 0));
        };
        retried(step).await;
        // Once more, so that the table was searched since the step.
        retried(step).await;
        let later = table.find(later).await;
        assert_eq!(
            (later.status, later.attempts.len()),
            (Status::Pending, 2),
            "{step}"
        );
    }
}
