//! Fair shares between tenants: no tenant's receivers delay another tenant's callbacks.

use std::sync::Arc;

use storm_shared::models::{RequestId, Status};
use tokio::{net::TcpListener, sync::Barrier};

use crate::{
    receiver::Receiver,
    rows::Rows as _,
    stack::{NO_DRAIN, NO_TIMEOUT, Stack},
};

/// Whether a callback is of the tenant, whose name its report has.
fn is_of(tenant: &str, body: &[u8]) -> bool {
    let name = format!("\"report_name\":\"{tenant}\"");
    String::from_utf8_lossy(body).contains(&name)
}

async fn accept_of(stack: &Stack, tenant: &str, url: &str, count: usize) -> Vec<RequestId> {
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        ids.push(stack.accept_of(tenant, url).await);
    }
    ids
}

/// Waits until all are delivered.
async fn delivered(stack: &Stack, ids: &[RequestId]) {
    for id in ids {
        let row = stack.ended(*id).await;
        assert_eq!((row.status, row.attempts.len()), (Status::Completed, 1));
    }
}

/// How many of the jobs have an attempt.
async fn attempted(stack: &Stack, ids: &[RequestId]) -> usize {
    let mut count = 0;
    for id in ids {
        count += usize::from(!stack.find(*id).await.attempts.is_empty());
    }
    count
}

/// A listener that answers no connection.
async fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    (listener, url)
}

#[tokio::test]
async fn a_tenant_whose_path_fails_does_not_delay_another_at_the_same_origin() {
    for status in [404, 500] {
        let receiver = Receiver::answering(move |_, body| {
            let is_wrong = is_of("a", body);
            if is_wrong { status } else { 200 }
        });
        let receiver = receiver.await;
        let stack = Stack::without_redis(&[
            ("CALLBACK_PER_ORIGIN", "4"),
            ("CALLBACK_RETRY_DELAYS", "1h"),
            NO_DRAIN,
        ])
        .await;
        let failing = accept_of(&stack, "a", &receiver.url(), 150).await;
        for id in &failing {
            let is_delayed = |row: &storm_shared::models::Request| {
                !row.attempts.is_empty() || row.parked_since.is_some()
            };
            stack.row_when(*id, is_delayed).await;
        }
        let open = stack.get("/metrics").await;
        let breakers = format!("storm_worker_open_breakers {}", u8::from(status == 500));
        assert!(open.contains(&breakers), "{open}");

        let fine = accept_of(&stack, "b", &receiver.url(), 20).await;
        delivered(&stack, &fine).await;
        for id in fine {
            assert_eq!(stack.find(id).await.parks, 0);
        }
        stack.stop().await;
    }
}

#[tokio::test]
async fn a_tenant_whose_calls_hang_does_not_keep_the_connections_of_an_origin() {
    for honest in [1, 49] {
        let receiver = Receiver::answering_when(|_, body| async move {
            if is_of("hostile", &body) {
                std::future::pending::<()>().await;
            }
            200
        });
        let receiver = receiver.await;
        let stack = Stack::without_redis(&[
            ("CALLBACK_PER_ORIGIN", "4"),
            ("CALLBACK_TIMEOUT", "1s"),
            ("CALLBACK_RETRY_DELAYS", "1h"),
            NO_DRAIN,
        ])
        .await;
        let hostile = accept_of(&stack, "hostile", &receiver.url(), 300).await;
        // Its attempt has begun, or is over already.
        let is_called = |row: &storm_shared::models::Request| {
            row.status == Status::Processing || !row.attempts.is_empty()
        };
        stack.row_when(hostile[0], is_called).await;
        let mut fine = Vec::new();
        for number in 0..honest {
            let tenant = format!("t{number}");
            fine.extend(accept_of(&stack, &tenant, &receiver.url(), 2).await);
        }
        delivered(&stack, &fine).await;
        // First come, first served, a hundred calls would hang before the breaker opens.
        let hung = attempted(&stack, &hostile).await;
        assert!(hung < 60, "{hung} calls");
        stack.stop().await;
    }
}

#[tokio::test]
async fn one_tenant_alone_gets_the_whole_limit_of_an_origin() {
    const LIMIT: usize = 4;
    let together = Arc::new(Barrier::new(LIMIT));
    let receiver = Receiver::answering_when(move |_, _| {
        let together = Arc::clone(&together);
        async move {
            together.wait().await;
            200
        }
    });
    let receiver = receiver.await;
    let stack = Stack::without_redis(&[("CALLBACK_PER_ORIGIN", "4"), NO_TIMEOUT]).await;
    let ids = accept_of(&stack, "a", &receiver.url(), 3 * LIMIT).await;
    delivered(&stack, &ids).await;
    stack.stop().await;
}

#[tokio::test]
async fn two_hanging_receivers_leave_room_for_another_in_a_small_worker() {
    let small = [("WORKER_CONCURRENCY", "8"), NO_TIMEOUT, NO_DRAIN];
    let stack = Stack::without_redis(&small).await;
    let (_one, one) = silent().await;
    let (_other, other) = silent().await;
    for url in [one, other] {
        for _ in 0..20 {
            stack.accept(1, Some(url.clone())).await;
        }
    }
    let receiver = Receiver::answering(|_, _| 200).await;
    let mut fine = Vec::new();
    for _ in 0..20 {
        fine.push(stack.accept(1, Some(receiver.url())).await);
    }
    delivered(&stack, &fine).await;
    stack.stop().await;
}

#[tokio::test]
async fn a_tenant_with_many_hanging_receivers_leaves_room_for_another_tenant() {
    let small = [("WORKER_CONCURRENCY", "16"), NO_TIMEOUT, NO_DRAIN];
    let stack = Stack::without_redis(&small).await;
    let mut listeners = Vec::new();
    for _ in 0..40 {
        let (listener, url) = silent().await;
        listeners.push(listener);
        accept_of(&stack, "hostile", &url, 2).await;
    }
    let receiver = Receiver::answering(|_, _| 200).await;
    let fine = accept_of(&stack, "honest", &receiver.url(), 20).await;
    delivered(&stack, &fine).await;
    stack.stop().await;
}
