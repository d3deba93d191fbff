//! What a worker says of itself, with its heartbeats.

use std::time::Duration;

use storm_shared::models::{BreakerState, Status, WorkerReport};

use crate::{receiver::Receiver, rows::Rows as _, stack::Stack};

impl Stack {
    /// The report of the only worker, once it is as `wanted`.
    async fn report_when(&self, wanted: impl Fn(&WorkerReport) -> bool) -> WorkerReport {
        loop {
            let workers = self.store.overview().await.unwrap().workers;
            let report = workers.into_iter().find_map(|worker| worker.report);
            if let Some(report) = report.filter(&wanted) {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_worker_reports_what_it_has_ended_and_whom_it_calls_now() {
    let good = Receiver::answering(|_, _| 200).await;
    let bad = Receiver::answering(|_, _| 404).await;
    let (slow, release) = Receiver::held().await;
    let overrides = [("CALLBACK_RETRY_DELAYS", ""), ("WORKER_CONCURRENCY", "7")];
    let stack = Stack::without_redis(&overrides).await;
    let first = stack.report_when(|_| true).await;
    assert_eq!((first.completed, first.failed, first.slots), (0, 0, 7));

    for (receiver, status) in [(&good, Status::Completed), (&bad, Status::Failed)] {
        let id = stack.accept(1, Some(receiver.url())).await;
        assert_eq!(stack.ended(id).await.status, status);
    }
    let ended = stack
        .report_when(|it| (it.completed, it.failed) == (1, 1))
        .await;
    assert_eq!(ended.time_to_callback.total(), 1, "of what was delivered");
    assert!(ended.uptime_ms > first.uptime_ms);

    let id = stack.accept(1, Some(slow.url())).await;
    stack.report_when(|it| it.slots_used == 1).await;
    let called = stack
        .report_when(|it| it.receivers.iter().any(|receiver| receiver.jobs == 1))
        .await;
    let receiver = called.receivers.iter().find(|it| it.jobs == 1).unwrap();
    assert!(slow.url().starts_with(&receiver.origin), "{receiver:?}");
    assert_eq!(
        (receiver.breaker, &receiver.tenant),
        (BreakerState::Closed, &None)
    );
    drop(release);
    assert_eq!(stack.ended(id).await.status, Status::Completed);
    stack
        .report_when(|it| it.completed == 2 && it.slots_used == 0)
        .await;
    stack.stop().await;
}

/// The id under which the only worker is listed, once it is not `former`.
async fn listed_after(stack: &Stack, former: &str) -> String {
    loop {
        let workers = stack.store.overview().await.unwrap().workers;
        if let Some(worker) = workers.into_iter().find(|worker| worker.owner != former) {
            return worker.owner;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_health_of_a_worker_names_its_row_also_after_it_has_lost_its_lease() {
    let stack = Stack::without_redis(&[]).await;
    let first = listed_after(&stack, "").await;
    let shown = |owner: &str| format!(r#""owner":"{owner}""#);
    let health = stack.get("/healthz").await;
    assert!(health.contains(&shown(&first)), "{first}: {health}");

    let delete = format!("DELETE FROM workers WHERE owner = '{first}'");
    stack.database().await.change(1, &delete).await;
    let second = listed_after(&stack, &first).await;
    let health = stack.get("/healthz").await;
    assert!(health.contains(&shown(&second)), "{second}: {health}");
    stack.stop().await;
}
