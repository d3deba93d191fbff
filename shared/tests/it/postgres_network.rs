//! Connections to the server that are lost at the worst moment, and those whose other end is gone
//! without a word.

use std::sync::Arc;

use futures_util::future::join_all;
use storm_shared::{
    models::{IdempotencyKey, Status},
    services::store::{Acceptance, Candidate, NewJob, Scope, Store, StoreError, Unredeliverable},
};

use crate::{
    jobs::{accept, delivered, new_job, new_worker, result_of, row, status, try_accept},
    postgres_proxy::{Cut, Proxy},
    postgres_server::{PostgresServer, settings, until},
};

/// A store that reaches its server through a proxy.
async fn through_proxy() -> (PostgresServer, Proxy, Store) {
    let server = PostgresServer::start(&[]);
    let proxy = Proxy::to(server.address()).await;
    let url = format!("postgres://storm@{}/postgres", proxy.address());
    let store = Store::open(&settings(&url)).await.unwrap();
    (server, proxy, store)
}

/// Runs a write whose commit meets a `cut`. Afterwards the server has noticed it, too.
async fn lost<T: std::fmt::Debug>(
    server: &PostgresServer,
    proxy: &Proxy,
    cut: Cut,
    write: impl Future<Output = Result<T, StoreError>>,
) {
    proxy.cut(cut);
    let lost = write.await;
    let is_unknown = lost.as_ref().is_err_and(StoreError::is_indeterminate);
    assert!(is_unknown, "{cut:?}: {lost:?}");
    let open = "SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'request-storm-handler' AND xact_start IS NOT NULL";
    until(async || server.number(open).await == 0).await;
}

#[tokio::test]
async fn a_write_whose_connection_is_cut_in_the_commit_is_unknown_and_its_repeat_is_safe() {
    let (server, proxy, store) = through_proxy().await;
    for (cut, accepted) in [(Cut::BeforeCommit, 0), (Cut::AfterCommit, 1)] {
        server.execute("TRUNCATE requests, attempts, events").await;
        let job = new_job();
        lost(&server, &proxy, cut, store.accept(job.clone())).await;
        assert_eq!(server.jobs().await, accepted);
        let again = store.accept(job.clone()).await.unwrap();
        assert_eq!(again, Acceptance::Stored);
        assert_eq!(server.jobs().await, 1);

        let owner = new_worker(&store).await;
        let candidates = vec![Candidate::notified(job.id)];
        let claiming = store.claim(owner, candidates.clone(), usize::MAX);
        lost(&server, &proxy, cut, claiming).await;
        let claimed = store.claim_again(owner, candidates, usize::MAX);
        let claimed = claimed.await.unwrap().jobs.pop().unwrap().unwrap();
        assert_eq!(claimed.claim.number, 1);

        let settle = || store.settle(claimed.claim, Some(result_of(&claimed)), delivered());
        lost(&server, &proxy, cut, settle()).await;
        settle().await.unwrap();
        let request = row(&store, job.id).await;
        assert_eq!(request.status, Status::Completed);
        assert_eq!(request.attempts.len(), 1);

        // A transaction of several statements.
        let redelivering = store.redeliver(Scope::All, job.id);
        lost(&server, &proxy, cut, redelivering).await;
        let again = store.redeliver(Scope::All, job.id).await.unwrap();
        let begun = match cut {
            Cut::BeforeCommit => Ok(()),
            Cut::AfterCommit | Cut::Never => Err(Unredeliverable::UnderWay),
        };
        assert_eq!(again, begun);
        lost(&server, &proxy, cut, store.cancel(Scope::All, job.id)).await;
    }
}

/// Codes with which a server can refuse a begin: it was cancelled, or others were in its way.
const REFUSALS: [&str; 2] = ["57014", "40001"];

#[tokio::test]
async fn a_write_whose_begin_alone_is_refused_is_unknown_and_its_repeat_is_safe() {
    let (server, proxy, store) = through_proxy().await;
    for code in REFUSALS {
        server.execute("TRUNCATE requests, attempts, events").await;
        let job = new_job();
        proxy.refuse_begin(code);
        let lost = store.accept(job.clone()).await;
        assert!(!proxy.will_refuse());
        let is_unknown = lost.as_ref().is_err_and(StoreError::is_indeterminate);
        assert!(is_unknown, "{code}: {lost:?}");
        // It was under way, and commits by itself.
        assert_eq!(server.jobs().await, 1);
        let again = store.accept(job.clone()).await.unwrap();
        assert_eq!(again, Acceptance::Stored);
        assert_eq!(server.jobs().await, 1);

        let owner = new_worker(&store).await;
        let candidates = vec![Candidate::notified(job.id)];
        proxy.refuse_begin(code);
        let claiming = store.claim(owner, candidates.clone(), usize::MAX);
        assert!(claiming.await.is_err_and(|error| error.is_indeterminate()));
        let claimed = store.claim_again(owner, candidates, usize::MAX);
        let claimed = claimed.await.unwrap().jobs.pop().unwrap().unwrap();
        assert_eq!(claimed.claim.number, 1);

        let settle = || store.settle(claimed.claim, Some(result_of(&claimed)), delivered());
        proxy.refuse_begin(code);
        assert!(settle().await.is_err_and(|error| error.is_indeterminate()));
        settle().await.unwrap();
        let request = row(&store, job.id).await;
        assert_eq!(request.status, Status::Completed);
        assert_eq!(request.attempts.len(), 1);
    }
}

/// Outside of a transaction, the first statement alone would take effect.
#[tokio::test]
async fn of_a_write_of_several_statements_nothing_is_run_without_its_transaction() {
    let (server, proxy, store) = through_proxy().await;
    let id = accept(&store).await;
    let owner = new_worker(&store).await;
    let candidates = vec![Candidate::notified(id)];
    store.claim(owner, candidates, usize::MAX).await.unwrap();
    proxy.refuse_begin("57014");
    let refused = store.deregister(owner).await;
    assert!(!proxy.will_refuse());
    assert!(
        matches!(refused, Err(StoreError::Failed { .. })),
        "{refused:?}"
    );
    assert_eq!(server.number("SELECT count(*) FROM workers").await, 1);
    // Others were in the way: it is tried again.
    proxy.refuse_begin("40001");
    assert_eq!(store.deregister(owner).await.unwrap(), 1);
    assert_eq!(status(&store, id).await, Status::Pending);
}

/// Each of many writes meets the fault, and is repeated until its outcome is known.
#[tokio::test]
async fn jobs_whose_commits_are_cut_again_and_again_are_accepted_once_each() {
    let (server, proxy, store) = through_proxy().await;
    let (store, proxy) = (Arc::new(store), Arc::new(proxy));
    let accept = |n: usize| {
        let (store, proxy) = (Arc::clone(&store), Arc::clone(&proxy));
        async move {
            let job = new_job();
            proxy.cut(if n.is_multiple_of(2) {
                Cut::BeforeCommit
            } else {
                Cut::AfterCommit
            });
            let mut accepted = store.accept(job.clone()).await;
            while accepted.is_err() {
                accepted = store.accept(job.clone()).await;
            }
            accepted.unwrap()
        }
    };
    for _ in 0..5 {
        let accepted = join_all((0..20).map(accept)).await;
        assert!(accepted.iter().all(|it| *it == Acceptance::Stored));
    }
    assert_eq!(server.jobs().await, 100);
}

#[tokio::test]
async fn a_server_that_is_gone_without_a_word_holds_up_no_more_than_the_writes_under_way() {
    let (server, proxy, store) = through_proxy().await;
    let id = accept(&store).await;
    // So many connections, all of which are frozen.
    let reads = join_all((0..50).map(|_| store.find(id))).await;
    assert!(reads.iter().all(Result::is_ok));
    proxy.freeze();
    let job: NewJob = new_job();
    let lost = store.accept(job.clone()).await;
    assert!(lost.is_err_and(|error| error.is_indeterminate()));
    proxy.forward_new_ones();
    // At once: none of the other frozen connections is tried.
    let again = store.accept(job.clone()).await.unwrap();
    assert_eq!(again, Acceptance::Stored);
    let reads = join_all((0..50).map(|_| status(&store, id))).await;
    assert!(reads.iter().all(|status| *status == Status::Pending));
    assert_eq!(server.jobs().await, 2);
}

#[tokio::test]
async fn a_host_that_vanishes_in_a_transaction_keeps_no_lock() {
    let (server, proxy, store) = through_proxy().await;
    let other = Store::open(&server.settings()).await.unwrap();
    let keyed = NewJob {
        idempotency_key: Some(IdempotencyKey::try_from(&b"key"[..]).unwrap()),
        ..new_job()
    };
    proxy.cut(Cut::Never);
    let vanishing = tokio::spawn({
        let keyed = keyed.clone();
        async move { store.accept(keyed).await }
    });
    let holds = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";
    until(async || server.number(holds).await == 1).await;
    let again = NewJob {
        id: new_job().id,
        ..keyed
    };
    until(async || other.accept(again.clone()).await.is_ok()).await;
    assert_eq!(server.jobs().await, 1);
    vanishing.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_host_that_only_accepts_connections_does_not_hide_the_next_one() {
    let server = PostgresServer::start(&[]);
    let frozen = Proxy::to(server.address()).await;
    frozen.freeze();
    let hosts = format!("{},{}", frozen.address(), server.address());
    let url = format!("postgres://storm@{hosts}/postgres");
    let store = Store::open(&settings(&url)).await.unwrap();
    try_accept(&store).await.unwrap();
    assert_eq!(server.jobs().await, 1);
}
