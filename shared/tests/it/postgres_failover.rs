//! A standby takes over: what happens to the jobs, and to the old primary that comes back.

use std::{net::TcpListener, time::Duration};

use jiff::Timestamp;
use storm_shared::{
    models::{IdempotencyKey, RequestId},
    services::{
        report,
        store::{Acceptance, Claim, NewJob, Scope, Settlement, Store, StoreError, Trouble},
    },
};
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    jobs::{
        accept, accept_in_tasks, accepted_by, assert_pending, claimed, delivered, new_job, spec,
        try_accept,
    },
    pgbouncer::PgBouncer,
    postgres_server::{PostgresServer, settings, until},
};

/// A store that knows these hosts, in this order.
async fn open(hosts: [&PostgresServer; 2]) -> Store {
    let [first, second] = hosts.map(PostgresServer::address);
    let url = format!("postgres://storm@{first},{second}/postgres");
    Store::open(&settings(&url)).await.unwrap()
}

#[tokio::test]
async fn after_a_failover_the_store_goes_on_at_the_new_primary() {
    let (primary, standby) = PostgresServer::with_standby().await;
    let store = open([&primary, &standby]).await;
    let writes = accept_in_tasks(&store, 500).await;
    until(async || primary.jobs().await > 0).await;
    primary.kill();
    standby.take_over().await;
    let accepted = accepted_by(writes).await;
    until(async || try_accept(&store).await.is_ok()).await;
    assert_pending(&store, &accepted).await;
}

#[tokio::test]
async fn an_old_primary_that_comes_back_is_refused_and_nothing_accepted_is_lost() {
    let (old, new) = PostgresServer::with_standby().await;
    let store = open([&old, &new]).await;
    let mut accepted = vec![accept(&store).await];
    old.kill();
    new.take_over().await;
    until(async || match try_accept(&store).await {
        Ok(id) => {
            accepted.push(id);
            true
        }
        Err(_) => false,
    })
    .await;
    // It takes writes, and waits for no standby.
    old.configure(&["synchronous_standby_names = ''"]);
    old.begin();
    let before = old.jobs().await;
    new.stop("fast");
    // The first failures may be those of the connections that were cut.
    let mut refused = try_accept(&store).await.unwrap_err();
    until(async || {
        let is_clear = refused.to_string().contains("is an old primary");
        refused = try_accept(&store).await.unwrap_err();
        is_clear
    })
    .await;
    assert!(
        matches!(refused, StoreError::Failed { .. }),
        "nothing was sent: {refused:?}"
    );
    assert!(store.check().await.is_err());
    new.begin();
    until(async || store.check().await.is_ok()).await;
    accepted.push(accept(&store).await);

    // A process that starts later compares the hosts.
    for hosts in [[&old, &new], [&new, &old]] {
        let store = open(hosts).await;
        accepted.push(accept(&store).await);
        store.close().await;
    }
    assert_pending(&store, &accepted).await;
    assert_eq!(old.jobs().await, before);
}

#[tokio::test]
async fn a_role_that_may_not_ask_for_the_timeline_works_and_follows_a_failover() {
    let (primary, standby) = PostgresServer::with_standby().await;
    primary
        .execute(
            "CREATE ROLE app LOGIN; GRANT CREATE ON SCHEMA public TO app;
             REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;",
        )
        .await;
    let [first, second] = [&primary, &standby].map(PostgresServer::address);
    let url = format!("postgres://app@{first},{second}/postgres");
    let (client, connection) = tokio_postgres::connect(
        &format!("postgres://app@{first}/postgres"),
        tokio_postgres::NoTls,
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let asked = client.simple_query("SELECT pg_control_system()").await;
    let code = asked.unwrap_err().code().map(|code| code.code().to_owned());
    assert_eq!(code.as_deref(), Some("42501"));

    let store = Store::open(&settings(&url)).await.unwrap();
    let before = accept(&store).await;
    primary.kill();
    standby.take_over().await;
    until(async || try_accept(&store).await.is_ok()).await;
    assert_pending(&store, &[before]).await;
    store.check().await.unwrap();
}

#[tokio::test]
async fn an_old_primary_behind_a_pooler_accepts_nothing() {
    let (old, new) = PostgresServer::with_standby().await;
    let pooler = PgBouncer::before(&old, &[]);
    let store = Store::open(&pooler.settings()).await.unwrap();
    accept(&store).await;
    old.kill();
    new.take_over().await;
    pooler.lead_to(&new);
    until(async || try_accept(&store).await.is_ok()).await;
    old.configure(&["synchronous_standby_names = ''"]);
    old.begin();
    let before = old.jobs().await;
    // The store's connections to the pooler stay; what they lead to does not.
    pooler.lead_to(&old);
    let url = format!("postgres://storm@{}/postgres", pooler.address());
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let port = old.host_and_port().1.to_string();
    until(async || {
        let answers = client.simple_query("SHOW port").await.unwrap_or_default();
        answers.iter().any(|answer| match answer {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0) == Some(&port),
            _ => false,
        })
    })
    .await;
    // The timeline is asked for some times a second.
    sleep(Duration::from_millis(200)).await;
    let refused = try_accept(&store).await.unwrap_err();
    assert!(
        refused.to_string().contains("is an old primary"),
        "{refused}"
    );
    for _ in 0..20 {
        try_accept(&store).await.unwrap_err();
    }
    assert_eq!(old.jobs().await, before, "nothing was committed there");
    pooler.lead_to(&new);
    until(async || try_accept(&store).await.is_ok()).await;
}

#[tokio::test]
async fn a_promoted_standby_is_found_while_the_old_primary_goes_on_answering() {
    let (old, new) = PostgresServer::with_standby().await;
    let store = open([&old, &new]).await;
    accept(&store).await;
    // The old primary waits for no standby any more: nothing ever fails there.
    old.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        .await;
    old.execute("SELECT pg_reload_conf()").await;
    new.take_over().await;
    let before = new.jobs().await;
    until(async || {
        let _ = try_accept(&store).await; // those under way at the change may fail
        new.jobs().await > before
    })
    .await;
    let before = old.jobs().await;
    for _ in 0..20 {
        accept(&store).await;
    }
    assert_eq!(old.jobs().await, before);
}

#[tokio::test]
async fn a_read_only_answer_leads_to_the_next_host_at_once() {
    let (first, second) = PostgresServer::with_standby().await;
    let store = open([&first, &second]).await;
    accept(&store).await;
    // The first one still answers, but takes no writes.
    second.take_over().await;
    first.configure(&[
        "synchronous_standby_names = ''",
        "default_transaction_read_only = on",
    ]);
    first.execute("SELECT pg_reload_conf()").await;
    let mut refused = None;
    until(async || {
        refused = try_accept(&store).await.err();
        refused.is_some()
    })
    .await;
    let refused = refused.unwrap();
    assert_eq!(refused.trouble(), Some(Trouble::ReadOnly), "{refused:?}");
    let before = second.jobs().await;
    accept(&store).await;
    assert_eq!(second.jobs().await, before + 1);
}

#[tokio::test]
async fn without_its_standby_no_commit_is_acknowledged_and_few_wait() {
    let (primary, standby) = PostgresServer::with_standby().await;
    // A statement that is cancelled while it waits for its standby would count as committed.
    primary
        .execute("ALTER ROLE storm SET statement_timeout = '1s'")
        .await;
    let store = Store::open(&primary.settings()).await.unwrap();
    standby.stop("immediate");
    let job = new_job();
    let lost = store.accept(job.clone()).await;
    assert!(
        lost.as_ref().is_err_and(StoreError::is_indeterminate),
        "{lost:?}"
    );
    // What has waited keeps a process of the server until the standby is back. No more begins.
    let waiting = primary.waiting_commits().await;
    assert!(waiting > 0);
    for _ in 0..20 {
        let refused = try_accept(&store).await.unwrap_err();
        assert!(refused.to_string().contains("standby"), "{refused}");
    }
    assert!(store.check().await.is_err());
    assert!(store.trouble().is_some());
    assert_eq!(primary.waiting_commits().await, waiting);
    standby.begin();
    until(async || store.check().await.is_ok()).await;
    assert_eq!(store.accept(job).await.unwrap(), Acceptance::Stored);
    assert_eq!(primary.jobs().await, 1);
}

/// After a crash, the primary shows what it had committed and its standby has not got.
#[tokio::test]
async fn a_job_that_is_found_is_acknowledged_only_when_the_standby_has_it() {
    let (primary, standby) = PostgresServer::with_standby().await;
    let store = Store::open(&primary.settings()).await.unwrap();
    standby.stop("immediate");
    let job = NewJob {
        idempotency_key: Some(IdempotencyKey::try_from(&b"key"[..]).unwrap()),
        ..new_job()
    };
    let accepting = {
        let (store, job) = (store.clone(), job.clone());
        tokio::spawn(async move { store.accept(job).await })
    };
    until(async || primary.waiting_commits().await > 0).await;
    primary.kill();
    let lost = accepting.await.unwrap();
    assert!(lost.is_err_and(|error| error.is_indeterminate()));
    primary.begin();
    until(async || primary.jobs().await == 1).await;

    let repeat = tokio::spawn(accepted_at_last(store.clone(), job.clone()));
    until(async || repeat.is_finished() || primary.waiting_commits().await > 0).await;
    assert!(!repeat.is_finished());
    let again = NewJob {
        id: new_job().id,
        ..job
    };
    let replay = tokio::spawn(replayed_at_last(store.clone(), again));
    until(async || replay.is_finished() || primary.waiting_commits().await > 1).await;
    assert!(!replay.is_finished());
    standby.begin();
    repeat.await.unwrap();
    replay.await.unwrap();
}

/// A call whose repeat finds that nothing is left to do.
#[derive(Clone, Copy)]
enum Deed {
    Settle(Claim, fn() -> Settlement),
    Cancel(RequestId),
    Record(RequestId, Timestamp),
}

impl Deed {
    async fn on(self, store: &Store) -> Result<(), StoreError> {
        match self {
            Self::Settle(claim, settlement) => store.settle(claim, None, settlement()).await,
            Self::Cancel(id) => store.cancel(Scope::All, id).await.map(drop),
            Self::Record(id, created_at) => {
                let spec = spec();
                let report = report::expected(&spec);
                let recorded = store.record_sync(id, created_at, &spec, None, Ok(&report));
                recorded.await
            }
        }
    }

    /// Repeats it until it succeeds, or the claim is found to be lost.
    async fn at_last(self, store: Store) {
        while let Err(error) = self.on(&store).await {
            if matches!(error, StoreError::ClaimLost) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The same of other calls. Who has the answer does not repeat it, after a failover either.
#[tokio::test]
async fn what_a_repeat_finds_done_is_answered_only_when_the_standby_has_it() {
    let (primary, standby) = PostgresServer::with_standby().await;
    let store = Store::open(&primary.settings()).await.unwrap();
    let deeds = [
        Deed::Settle(claimed(&store).await.claim, delivered),
        // It leaves nothing by which its repeat can tell it from a lease expiry.
        Deed::Settle(claimed(&store).await.claim, || Settlement::Park {
            wait: Duration::from_hours(1),
        }),
        Deed::Cancel(accept(&store).await),
        Deed::Record(RequestId::generate(), Timestamp::now()),
    ];
    standby.stop("immediate");
    let first = deeds.map(|deed| {
        let store = store.clone();
        tokio::spawn(async move { deed.on(&store).await })
    });
    // Both settlements may be in one batch.
    until(async || primary.waiting_commits().await >= 3).await;
    primary.kill();
    for first in first {
        let lost = first.await.unwrap();
        assert!(
            lost.as_ref().is_err_and(StoreError::is_indeterminate),
            "{lost:?}"
        );
    }
    primary.begin();
    let done = "SELECT count(*) FROM requests WHERE status <> 'PENDING' OR parks > 0";
    until(async || primary.number(done).await == 4).await;

    let repeats = deeds.map(|deed| tokio::spawn(deed.at_last(store.clone())));
    let is_any_over = || repeats.iter().any(JoinHandle::is_finished);
    until(async || is_any_over() || primary.waiting_commits().await >= 3).await;
    assert!(!is_any_over());
    standby.begin();
    for repeat in repeats {
        repeat.await.unwrap();
    }
}

/// Accepts a job again and again.
async fn accepted_at_last(store: Store, job: NewJob) {
    while store.accept(job.clone()).await.is_err() {
        sleep(Duration::from_millis(20)).await;
    }
}

/// Asks again and again for the job that has the key of `job`.
async fn replayed_at_last(store: Store, job: NewJob) {
    while !matches!(store.accepted_before(&job).await, Ok(Some(_))) {
        sleep(Duration::from_millis(20)).await;
    }
}

/// After an upgrade or a restored dump, the server of before may still run.
#[tokio::test]
async fn a_host_of_another_cluster_is_not_gone_over_to_while_the_known_one_answers() {
    let (known, other) = (PostgresServer::start(&[]), PostgresServer::start(&[]));
    let store = open([&known, &other]).await;
    let mut accepted = 0;
    for _ in 0..5 {
        // Each failure makes the next connection compare the hosts.
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = 'request-storm-handler'";
        known.execute(cut).await;
        until(async || try_accept(&store).await.is_ok()).await;
        accepted += 1;
    }
    assert!(known.jobs().await >= accepted);
    let tables = "SELECT count(*) FROM pg_tables WHERE tablename = 'requests'";
    assert_eq!(other.number(tables).await, 0);
}

#[tokio::test]
async fn hosts_that_accept_connections_and_hang_keep_nobody_from_the_primary() {
    let primary = PostgresServer::start(&[]);
    let hanging = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [first, second] = hanging.each_ref().map(|it| it.local_addr().unwrap());
    let url = format!(
        "postgres://storm@{first},{second},{}/postgres",
        primary.address()
    );
    let store = Store::open(&settings(&url)).await.unwrap();
    accept(&store).await;
}
