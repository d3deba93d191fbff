//! A collector that hangs, refuses or fails costs spans, and nothing else.

use std::{
    future::{pending, ready},
    time::Duration,
};

use storm_shared::models::Status;
use tokio::time::timeout;

use super::joined::{api, exporting, report, submit};
use crate::{
    collector::Collector, process::WorkerProcess, receiver::Receiver, rows::Rows as _, table::Table,
};

/// Runs jobs to their end.
async fn run_jobs(table: &Table, api: &WorkerProcess, jobs: usize) {
    let mut receiver = Receiver::answering(|_, _| 200).await;
    for _ in 0..jobs {
        let id = submit(api, "", "/async", &report(&receiver.url())).await;
        receiver.next().await;
        assert_eq!(table.ended(id).await.status, Status::Completed);
    }
}

/// The number of spans that a process has dropped.
async fn dropped(process: &WorkerProcess, name: &str) -> u64 {
    let metrics = process.get("/metrics").await.unwrap();
    let prefix = format!("storm_{name}_dropped_spans_total ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&prefix));
    line.unwrap().parse().unwrap()
}

/// Each wait for the collector would be 10 minutes.
const PATIENT: (&str, &str) = ("OTEL_EXPORTER_OTLP_TIMEOUT", "600000");

/// Much longer than a flush, and much shorter than such a wait.
const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_collector_that_hangs_delays_no_job_and_no_end_and_only_a_full_queue_drops_spans() {
    let mut collector = Collector::answering(pending).await;
    let url = collector.url();
    let table = Table::new().await;
    let queue = ("OTEL_BSP_MAX_QUEUE_SIZE", "4");
    let settings = [exporting(&url), vec![PATIENT, queue]].concat();
    let (api, worker) = (api(&table, &settings).await, table.worker(&settings));
    run_jobs(&table, &api, 1).await;
    // Both exports hang from here on.
    for service in ["storm-api", "storm-worker"] {
        collector
            .until(1, |span| span.resource["service.name"] == service)
            .await;
    }
    run_jobs(&table, &api, 8).await;
    assert!(dropped(&worker, "worker").await > 0);
    assert!(dropped(&api, "api").await > 0);
    for process in [&api, &worker] {
        process.signal("TERM");
        process.logs("the last spans were not exported").await;
    }
    for process in [api, worker] {
        let ended = timeout(SOON, process.ended()).await;
        assert!(ended.unwrap().success());
    }
}

#[tokio::test]
async fn the_end_tells_of_the_spans_of_an_export_that_hangs() {
    let mut collector = Collector::answering(pending).await;
    let url = collector.url();
    let receiver = Receiver::answering(|_, _| 200).await;
    let table = Table::new().await;
    let api = api(&table, &[exporting(&url), vec![PATIENT]].concat()).await;
    submit(&api, "", "/async", &report(&receiver.url())).await;
    // It is not in the queue any more.
    collector.until(1, |_| true).await;
    api.signal("TERM");
    api.logs("the last spans were not exported").await;
    assert!(api.ended().await.success());
}

#[tokio::test]
async fn spans_that_a_collector_refuses_are_counted_and_told_of_once() {
    let failing = Collector::answering(|| ready((500, ""))).await;
    let page = Collector::answering(|| ready((200, "<html>welcome</html>"))).await;
    let absent = "http://127.0.0.1:1".to_owned();
    for (url, why) in [
        (failing.url(), "the collector answered 500"),
        (page.url(), "the answer is no collector's"),
        (absent, "Connection refused"),
    ] {
        let table = Table::new().await;
        let settings = exporting(&url);
        let (api, worker) = (api(&table, &settings).await, table.worker(&settings));
        run_jobs(&table, &api, 1).await;
        worker.logs("spans are dropped").await;
        while dropped(&worker, "worker").await < 4 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let before = dropped(&worker, "worker").await;
        run_jobs(&table, &api, 1).await;
        while dropped(&worker, "worker").await == before {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let log = worker.log();
        assert_eq!(log.matches("spans are dropped").count(), 1, "{log}");
        assert!(log.contains(why), "{log}");
        for process in [&api, &worker] {
            process.signal("TERM");
        }
        // The others were dropped within the minute in which the log is silent.
        worker.logs("the last spans were not exported").await;
        for process in [api, worker] {
            assert!(process.ended().await.success());
        }
    }
}

#[tokio::test]
async fn a_shutdown_sends_the_spans_that_are_queued() {
    let mut collector = Collector::new().await;
    // A name, which has to be looked up.
    let url = collector.url().replace("127.0.0.1", "localhost");
    let table = Table::new().await;
    let never = ("OTEL_BSP_SCHEDULE_DELAY", "3600000");
    let settings = [exporting(&url), vec![never]].concat();
    let (api, worker) = (api(&table, &settings).await, table.worker(&settings));
    run_jobs(&table, &api, 2).await;
    assert!(collector.so_far().is_empty());
    for process in [api, worker] {
        process.signal("TERM");
        assert!(process.ended().await.success());
    }
    assert_eq!(collector.so_far().len(), 10);
}
