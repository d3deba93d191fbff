//! What a `LOG` filter shows of each job.

use serde_json::Value;
use storm_shared::{
    config::Settings,
    models::{CallbackUrl, Records, ReportName, ReportSpec, RequestId},
    services::store::{NewJob, Store},
};
use tempfile::TempDir;

use crate::process::WorkerProcess;

#[tokio::test]
async fn a_log_filter_shows_one_line_for_each_job_that_ends_with_its_id_and_outcome() {
    let folder = TempDir::new().unwrap();
    let database = format!("sqlite:{}", folder.path().join("storm.db").display());
    let settings = Settings::with([("DB_URL", database.as_str())]).unwrap();
    let store = Store::open(&settings.store).await.unwrap();
    let worker = WorkerProcess::start(folder.path(), &[("LOG", "info,storm_worker::jobs=debug")]);
    let refused = CallbackUrl::parse("http://10.0.0.1/").unwrap();
    for (callback, outcome) in [(None, "completed"), (Some(refused), "callback_refused")] {
        let id = RequestId::generate();
        let spec = ReportSpec {
            report_name: ReportName::try_from("Q1_Finance".to_owned()).unwrap(),
            records: Records::new(1, Records::MAX_ASYNC).unwrap(),
        };
        store.accept(NewJob::new(id, spec, callback)).await.unwrap();
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
