//! What a `LOG` filter shows of each job.

use serde_json::Value;

use crate::{process::WorkerProcess, rows::Rows as _, table::Table};

#[tokio::test]
async fn a_log_filter_shows_one_line_for_each_job_that_ends_with_its_id_and_outcome() {
    let table = Table::new().await;
    let filter = ("LOG", "info,storm_worker::jobs=debug");
    let worker = WorkerProcess::start(table.folder.path(), &[filter]);
    let refused = "http://10.0.0.1/".to_owned();
    for (callback, outcome) in [(None, "completed"), (Some(refused), "callback_refused")] {
        let id = table.accept(1, callback).await;
        worker.logs(&format!(r#""id":"{id}","outcome""#)).await;
        let log = worker.log();
        let mut lines = log
            .lines()
            .filter(|line| line.contains("storm_worker::jobs"));
        let line: Value = serde_json::from_str(lines.next_back().unwrap()).unwrap();
        assert_eq!(line["message"], "job ended");
        assert_eq!(line["outcome"], outcome);
    }
    let shown = worker.log().matches("job ended").count();
    assert_eq!(shown, 2, "{}", worker.log());
}
