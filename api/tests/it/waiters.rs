//! Bounds of those who wait for results, and what becomes of them at a shutdown and in an outage.

use crate::{
    auth::{Tenants, bearing},
    client::{Client, bare, post},
    eventually,
    prefer::{JOB, newest, preferring, waiters},
    server::Server,
};

/// The newest job's path with a long wait.
async fn long_poll(server: &Server) -> String {
    bare(
        "GET",
        &format!("/requests/{}?wait=60s", newest(server).await),
    )
}

/// Opens a connection for each of `count` requests that wait.
async fn waiting(server: &Server, count: usize, request: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = server.connect().await;
        client.send(request).await;
        clients.push(client);
    }
    clients
}

#[tokio::test]
async fn hostile_waiters_take_half_of_the_connections_and_no_job_is_refused() {
    let server = Server::start(&[("HTTP_CONNECTIONS", "16")]).await;
    let metrics = || server.app.metrics.render();
    assert!(metrics().contains("\nstorm_api_waiters_limit 8\n"));
    let submission = post("/async", JOB);
    let mut clients = waiting(&server, 4, &preferring("wait=60", &submission)).await;
    waiters(&server, 4).await;
    clients.extend(waiting(&server, 4, &long_poll(&server).await).await);
    waiters(&server, 8).await;

    let mut client = server.connect().await;
    client.send(long_poll(&server).await).await;
    let refused = client.answer().await;
    assert_eq!(refused.problem(), "503 too-many-waiters");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(
        client.is_closed().await,
        "so that others have its connection"
    );
    let mut client = server.connect().await;
    // A job is accepted all the same, and its client told that nobody waits for it.
    for (prefer, applied) in [
        ("respond-async, wait=60", Some("respond-async")),
        ("wait=60", None),
    ] {
        client.send(preferring(prefer, &submission)).await;
        let accepted = client.answer().await;
        assert_eq!(accepted.status, 202);
        assert_eq!(accepted.header("preference-applied"), applied);
        let location = accepted.header("location").unwrap();
        client.send(bare("GET", location)).await;
        assert_eq!(client.answer().await.json()["status"], "PENDING");
    }
    client.send(&submission).await;
    assert_eq!(client.answer().await.status, 202);
    assert!(metrics().contains("\nstorm_api_refused_waits_total 3\n"));

    // Who disconnects leaves the place to the next one.
    clients.truncate(6);
    waiters(&server, 6).await;
    clients.extend(waiting(&server, 2, &long_poll(&server).await).await);
    waiters(&server, 8).await;
    drop(clients);
    waiters(&server, 0).await;
}

#[tokio::test]
async fn one_tenants_waiters_leave_permits_to_the_others() {
    let tenants = Tenants::start(&[("HTTP_CONNECTIONS", "64")]).await;
    let server = &tenants.server;
    let submission = post("/async", JOB);
    let [of_one, of_other] = [&tenants.one, &tenants.other].map(|it| bearing(it, &submission));
    let wait = |request: &str| preferring("wait=60", request);
    // Seven eighths of the 32 permits.
    let _hog = waiting(server, 28, &wait(&of_one)).await;
    waiters(server, 28).await;
    let refused = server.ask(wait(&of_one)).await;
    let applied = refused.header("preference-applied");
    assert_eq!((refused.status, applied), (202, None));
    let _other = waiting(server, 4, &wait(&of_other)).await;
    waiters(server, 32).await;
    assert_eq!(server.ask(&of_one).await.status, 202);
    assert_eq!(server.ask(&of_other).await.status, 202);
}

#[tokio::test]
async fn who_waits_holds_no_memory_budget_and_no_read() {
    let server = Server::start(&[("HANDLERS__PDF__URL", "http://127.0.0.1:9/")]).await;
    let payload = format!("{{\"payload\": {:?}}}", "a".repeat(100_000));
    let submission = preferring("wait=60", &post("/async/pdf", payload));
    let mut clients = waiting(&server, 3, &submission).await;
    waiters(&server, 3).await;
    clients.extend(waiting(&server, 3, &long_poll(&server).await).await);
    waiters(&server, 6).await;
    eventually("no memory held", || {
        let metrics = server.app.metrics.render();
        metrics.contains("\nstorm_api_memory_reserved_bytes 0\n")
    })
    .await;
    eventually("no read", || {
        let metrics = server.app.metrics.render();
        metrics.contains("\nstorm_api_read_queue_depth 0\n")
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_answers_all_who_wait_and_loses_no_job() {
    let server = Server::start(&[("DRAIN_TIMEOUT", "10m")]).await;
    let submission = preferring("respond-async, wait=60", &post("/async", JOB));
    let mut submitted = waiting(&server, 3, &submission).await;
    waiters(&server, 3).await;
    let mut found = waiting(&server, 3, &long_poll(&server).await).await;
    waiters(&server, 6).await;
    server.shutdown.cancel();
    for client in &mut submitted {
        let answer = client.answer().await;
        let applied = answer.header("preference-applied");
        assert_eq!((answer.status, applied), (202, Some("respond-async")));
        assert!(answer.header("location").is_some());
        assert!(client.is_closed().await);
    }
    for client in &mut found {
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, &answer.json()["status"]),
            (200, &"PENDING".into())
        );
        assert!(client.is_closed().await);
    }
    assert_eq!(server.database().await.count("requests").await, 3);
    server.ended().await.unwrap();
}

/// Sends a request that waits for some seconds, and returns once it waits: or was answered, on a
/// machine that is too busy.
async fn begins_to_wait(server: &Server, request: &str) -> Client {
    let mut client = server.connect().await;
    client.send(request).await;
    tokio::select! {
        () = waiters(server, 1) => {}
        answer = client.has_answer() => answer.unwrap(),
    }
    client
}

/// Renames a table, which makes every read of it fail.
async fn rename(server: &Server, from: &str, to: &str) {
    let rename = format!("ALTER TABLE {from} RENAME TO {to}");
    server.database().await.run(&rename).await;
}

#[tokio::test]
async fn while_the_database_fails_waits_time_out_with_what_is_known() {
    let server = Server::start(&[]).await;
    let submission = preferring("wait=2", &post("/async", JOB));
    let mut submitted = begins_to_wait(&server, &submission).await;
    rename(&server, "requests", "elsewhere").await;
    let accepted = submitted.answer().await;
    let applied = accepted.header("preference-applied");
    assert_eq!((accepted.status, applied), (202, Some("wait=2")));
    rename(&server, "elsewhere", "requests").await;
    let location = accepted.header("location").unwrap();
    assert_eq!(server.ask(bare("GET", location)).await.status, 200);

    // Repeated if the wait was over before the outage began.
    let long_poll = bare("GET", &format!("{location}?wait=2s"));
    for _ in 0..20 {
        let mut client = begins_to_wait(&server, &long_poll).await;
        rename(&server, "requests", "elsewhere").await;
        let answer = client.answer().await;
        rename(&server, "elsewhere", "requests").await;
        if answer.status != 200 {
            assert_eq!(answer.problem(), "503 database-unavailable");
            return;
        }
    }
    panic!("no wait of 2 s outlasted what comes before the outage");
}
