//! `GET /requests/{id}?wait`: a look-up that waits for the end of the request.

use storm_shared::{models::RequestId, services::store::Outcome};

use crate::{
    auth::{Tenants, bearing},
    client::{Answer, bare, post},
    prefer::{JOB, claim, end, newest, result, settle, waiters},
    redelivery::{HOOK, failed},
    server::Server,
};

fn get(id: impl std::fmt::Display, query: &str) -> String {
    bare("GET", &format!("/requests/{id}{query}"))
}

async fn accept(server: &Server) -> RequestId {
    let answer = server.ask(post("/async", JOB)).await;
    assert_eq!(answer.status, 202);
    newest(server).await
}

fn status(answer: &Answer) -> String {
    assert_eq!(answer.status, 200);
    answer.json()["status"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_look_up_waits_until_the_request_is_over() {
    let server = Server::start(&[]).await;
    let id = accept(&server).await;
    let (mut get_it, mut head) = (server.connect().await, server.connect().await);
    get_it.send(get(id, "?wait=60s")).await;
    let path = format!("/requests/{id}?wait=60s");
    head.send(bare("HEAD", &path)).await;
    waiters(&server, 2).await;
    let store = &server.app.store;
    let claim = claim(store, id).await;
    store.store_worked(claim, Ok(result()), None).await.unwrap();
    settle(store, claim, Outcome::Completed).await;
    let answer = get_it.answer().await;
    assert_eq!(status(&answer), "COMPLETED");
    assert_eq!(answer.json(), server.ask(get(id, "")).await.json());
    let head = head.head().await;
    assert_eq!(head.status, 200);
    let length = answer.header("content-length");
    assert_eq!(head.header("content-length"), length);
    waiters(&server, 0).await;
    // The connection goes on.
    get_it.send(get(id, "?wait=60s")).await;
    assert_eq!(status(&get_it.answer().await), "COMPLETED");
}

#[tokio::test]
async fn after_the_wait_the_answer_is_the_state_so_far() {
    let server = Server::start(&[]).await;
    let id = accept(&server).await;
    for query in ["?wait=10ms", "?wait=0s", "?a=1&wait=1ms&b", "?wai=x"] {
        assert_eq!(
            status(&server.ask(get(id, query)).await),
            "PENDING",
            "{query}"
        );
    }
}

#[tokio::test]
async fn no_cache_keeps_what_a_get_has_shown() {
    let server = Server::start(&[]).await;
    let id = accept(&server).await;
    let (shown, waited) = (
        format!("/requests/{id}"),
        format!("/requests/{id}?wait=1ms"),
    );
    for path in [
        &shown,
        &waited,
        "/requests",
        "/requests/x",
        "/requests?limit=x",
        "/handlers",
        "/readyz",
        "/nothing",
    ] {
        let answer = server.ask(bare("GET", path)).await;
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
    }
    let mut client = server.connect().await;
    client.send(bare("HEAD", &waited)).await;
    let head = client.head().await;
    assert_eq!(head.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn a_request_that_is_over_is_answered_at_once_also_while_it_is_redelivered() {
    let server = Server::start(&[("HTTP_CONNECTIONS", "1")]).await; // no permits at all
    let id = failed(&server.app.store, HOOK).await;
    let mut client = server.connect().await;
    client.send(get(id, "?wait=60s")).await;
    assert_eq!(status(&client.answer().await), "FAILED");
    let redeliver = bare("POST", &format!("/requests/{id}/redeliver"));
    client.send(redeliver).await;
    assert_eq!(client.answer().await.status, 202);
    client.send(get(id, "?wait=60s")).await;
    assert_eq!(status(&client.answer().await), "FAILED");
}

#[tokio::test]
async fn a_wait_that_is_no_duration_is_refused_with_what_is_accepted() {
    let server = Server::start(&[]).await;
    let id = accept(&server).await;
    for query in [
        "?wait=",
        "?wait",
        "?wait=20",
        "?wait=soon",
        "?wait=%FF",
        "?wait=1s&wait=1s",
    ] {
        let answer = server.ask(get(id, query)).await;
        assert_eq!(answer.problem(), "422 validation", "{query}");
        let fault = answer.json()["errors"][0].clone();
        assert_eq!(fault["field"], "wait", "{query}");
        assert!(fault["detail"].as_str().unwrap().starts_with("must be "));
    }
}

#[tokio::test]
async fn what_a_client_may_not_see_is_not_waited_for() {
    // No permits: whoever waited would be refused one.
    let tenants = Tenants::start(&[("HTTP_CONNECTIONS", "1")]).await;
    let mut client = tenants.server.connect().await;
    client
        .send(bearing(&tenants.one, &post("/async", JOB)))
        .await;
    assert_eq!(client.answer().await.status, 202);
    let id = newest(&tenants.server).await;
    let unknown = "0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42";
    for other in [id.to_string(), unknown.to_owned(), "1".to_owned()] {
        client
            .send(bearing(&tenants.other, &get(&other, "?wait=60s")))
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.problem(), "404 not-found", "{other}");
    }
    client
        .send(bearing(&tenants.one, &get(id, "?wait=60s")))
        .await;
    let own = client.answer().await;
    assert_eq!(own.problem(), "503 too-many-waiters");
}

#[tokio::test]
async fn a_request_that_is_deleted_meanwhile_is_404() {
    let server = Server::start(&[]).await;
    let id = accept(&server).await;
    let mut client = server.connect().await;
    client.send(get(id, "?wait=60s")).await;
    waiters(&server, 1).await;
    let delete = format!("DELETE FROM requests WHERE id = '{id}'");
    server.database().await.change(1, &delete).await;
    assert_eq!(client.answer().await.problem(), "404 not-found");
}

#[tokio::test]
async fn many_who_wait_for_one_request_and_for_others_hear_of_their_own() {
    let server = Server::start(&[]).await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(accept(&server).await);
    }
    let mut clients = Vec::new();
    for id in ids.iter().chain(&ids) {
        let mut client = server.connect().await;
        client.send(get(id, "?wait=60s")).await;
        clients.push(client);
    }
    waiters(&server, 40).await;
    for ended in ids.iter().step_by(2) {
        end(&server.app.store, *ended, Outcome::Completed).await;
    }
    waiters(&server, 20).await;
    for (id, client) in ids.iter().chain(&ids).zip(&mut clients).step_by(2) {
        let answer = client.answer().await;
        assert_eq!(status(&answer), "COMPLETED");
        assert_eq!(answer.json()["id"], id.to_string());
    }
}
