use std::sync::{Arc, atomic::Ordering};

use tokio::{sync::Notify, task::JoinHandle};
use tokio_postgres::types::Type;

use super::{
    super::{
        error::Error,
        fresh::Fresh,
        lease, pause,
        session::{Session, Sessions},
    },
    ClaimedRows, Lease, REPEATS, claim, claim_again, claim_once,
};
use crate::services::store::{Candidate, Claimed, Ended, Heartbeat, OwnerId, Paused, StoreError};

const NEW: &str = "INSERT INTO requests (id, mode, status, input_payload, created_at, due)
    SELECT lpad(n::text, 32, '0')::uuid, 'async', 'PENDING',
        '{\"report_name\":\"a\",\"records\":1}', now(), now()
    FROM generate_series(1, 4) AS n";

fn new_jobs() -> Vec<Candidate> {
    let ids = (1..=4).map(|n| format!("{n:032}").parse().unwrap());
    ids.map(Candidate::notified).collect()
}

/// A database with new jobs and a worker.
async fn opened() -> (Fresh, Heartbeat) {
    let fresh = Fresh::open().await;
    fresh.execute(NEW).await;
    let owner = OwnerId::generate();
    let register = "INSERT INTO workers (owner, beat, renewed_at, handlers)
        VALUES ($1, 0, now(), '{}')";
    let values = [(&owner.uuid() as _, Type::UUID)];
    fresh.sessions.commit_one(register, &values).await.unwrap();
    (fresh, Heartbeat { owner, beat: 0 })
}

async fn held(sessions: &Sessions) -> i64 {
    let held = "SELECT count(*) FROM requests WHERE status = 'PROCESSING'";
    sessions.query(held, &[]).await.unwrap()[0].get(0)
}

/// A transaction that waits before its commit.
#[derive(Clone, Default)]
struct Gate(Arc<(Notify, Notify)>);

impl Gate {
    async fn wait(&self) {
        self.0.0.notify_one();
        self.0.1.notified().await;
    }

    /// Runs `second` once the transaction waits, and lets that go on once `second` waits for it.
    async fn before<T: Send + 'static>(
        self,
        sessions: &Sessions,
        second: impl Future<Output = T> + Send + 'static,
    ) -> T {
        self.0.0.notified().await;
        let second = tokio::spawn(second);
        let waits = "SELECT FROM pg_stat_activity
            WHERE wait_event_type = 'Lock' AND datname = current_database()";
        while sessions.query(waits, &[]).await.unwrap().is_empty() {
            assert!(!second.is_finished(), "it does not wait");
        }
        self.0.1.notify_one();
        second.await.unwrap()
    }
}

fn claiming(
    sessions: &Arc<Sessions>,
    owner: OwnerId,
) -> impl Future<Output = Result<Claimed, StoreError>> + Send + 'static {
    let sessions = Arc::clone(sessions);
    async move { claim(&sessions, owner, new_jobs(), usize::MAX).await }
}

/// A transaction with a claim that waits at the gate.
fn claim_at(gate: &Gate, sessions: &Arc<Sessions>, owner: OwnerId) -> JoinHandle<usize> {
    let (gate, sessions) = (gate.clone(), Arc::clone(sessions));
    let run = move |session: Session| {
        let gate = gate.clone();
        async move {
            let mut claimed = ClaimedRows::within(1);
            let lease = claimed
                .claim(&session, owner, &new_jobs(), i64::MAX)
                .await?;
            assert!(lease == Lease::Held);
            gate.wait().await;
            Ok(claimed.jobs.len())
        }
    };
    tokio::spawn(async move { sessions.write(run).await.unwrap() })
}

#[tokio::test]
async fn a_claim_that_comes_after_its_repeat_claims_nothing() {
    let (fresh, Heartbeat { owner, .. }) = opened().await;
    let sessions = &fresh.sessions;
    // Its connection was lost, and the server begins with it later.
    let sent = REPEATS.load(Ordering::Relaxed);
    let repeated = claim_again(sessions, owner, new_jobs(), 1).await.unwrap();
    assert_eq!((repeated.jobs.len(), repeated.left.len()), (1, 3));
    let late = claim_once(sessions, owner, new_jobs().into(), 1, sent).await;
    assert!(late.unwrap().0 == Lease::Late);
    assert_eq!(held(sessions).await, 1, "nobody knows of another one");
    // The next claims of the worker go on.
    let next = claim(sessions, owner, repeated.left, usize::MAX).await;
    assert_eq!(next.unwrap().jobs.len(), 3);
    fresh.drop().await;
}

#[tokio::test]
async fn a_repeat_waits_for_a_claim_under_way_and_finds_what_it_wins() {
    let (fresh, Heartbeat { owner, .. }) = opened().await;
    let (sessions, gate) = (&fresh.sessions, Gate::default());
    let first = claim_at(&gate, sessions, owner);
    let repeat = {
        let sessions = Arc::clone(sessions);
        async move { claim_again(&sessions, owner, new_jobs(), 1).await.unwrap() }
    };
    let repeat = gate.before(sessions, repeat).await;
    assert_eq!(first.await.unwrap(), 1);
    assert_eq!((repeat.jobs.len(), repeat.left.len()), (1, 3));
    assert_eq!(held(sessions).await, 1, "the same one");
    fresh.drop().await;
}

#[tokio::test]
async fn a_claim_that_comes_while_a_pause_is_committed_claims_nothing() {
    let (fresh, Heartbeat { owner, .. }) = opened().await;
    let (sessions, gate) = (&fresh.sessions, Gate::default());
    let pause = {
        let gate = gate.clone();
        move |session: Session| {
            let gate = gate.clone();
            async move {
                let operator = "ops".parse().unwrap();
                let paused = pause::begin(&session, &Paused::Everything, &operator).await?;
                gate.wait().await;
                Ok::<_, Error>(paused)
            }
        }
    };
    let pausing = tokio::spawn({
        let sessions = Arc::clone(sessions);
        async move { sessions.write(pause).await }
    });
    let claimed = gate
        .before(sessions, claiming(sessions, owner))
        .await
        .unwrap();
    assert!(claimed.is_paused && claimed.jobs.is_empty());
    assert_eq!(pausing.await.unwrap().unwrap(), Ok(true));
    assert_eq!(held(sessions).await, 0);
    fresh.drop().await;
}

#[tokio::test]
async fn a_claim_that_comes_while_its_lease_expires_claims_nothing() {
    let (fresh, seen) = opened().await;
    let (sessions, gate) = (&fresh.sessions, Gate::default());
    let expire = {
        let gate = gate.clone();
        move |session: Session| {
            let gate = gate.clone();
            async move {
                let expired = lease::expire(&session, seen, 5).await?;
                gate.wait().await;
                Ok::<_, Error>(expired)
            }
        }
    };
    let expiring = tokio::spawn({
        let sessions = Arc::clone(sessions);
        async move { sessions.write(expire).await }
    });
    let claimed = gate.before(sessions, claiming(sessions, seen.owner)).await;
    assert!(matches!(claimed, Err(StoreError::LeaseLost)), "{claimed:?}");
    assert!(expiring.await.unwrap().unwrap().is_some());
    assert_eq!(held(sessions).await, 0);
    fresh.drop().await;
}

#[tokio::test]
async fn an_expiry_reclaims_what_a_claim_under_way_wins() {
    let (fresh, seen) = opened().await;
    let (sessions, gate) = (&fresh.sessions, Gate::default());
    let claimed = claim_at(&gate, sessions, seen.owner);
    let expiry = {
        let sessions = Arc::clone(sessions);
        let expire = move |session: Session| async move { lease::expire(&session, seen, 5).await };
        async move { sessions.write(expire).await.unwrap().unwrap() }
    };
    let expired = gate.before(sessions, expiry).await;
    assert_eq!((claimed.await.unwrap(), expired.reclaimed), (1, 1));
    assert_eq!(held(sessions).await, 0);
    fresh.drop().await;
}

/// A worker claims and renews its lease at the same time, all the time.
#[tokio::test]
async fn a_heartbeat_waits_for_no_claim_under_way_and_a_claim_for_no_heartbeat() {
    let (fresh, Heartbeat { owner, .. }) = opened().await;
    let (sessions, gate) = (&fresh.sessions, Gate::default());
    let renew = move |session: Session| async move {
        lease::renew(&session, owner, Ended::default(), None).await
    };
    let claimed = claim_at(&gate, sessions, owner);
    gate.0.0.notified().await;
    assert!(sessions.write(renew).await.unwrap().is_some());
    gate.0.1.notify_one();
    assert_eq!(claimed.await.unwrap(), 1);

    let renewing = tokio::spawn({
        let (gate, sessions) = (gate.clone(), Arc::clone(sessions));
        let run = move |session: Session| {
            let gate = gate.clone();
            async move {
                let renewed = lease::renew(&session, owner, Ended::default(), None).await?;
                gate.wait().await;
                Ok::<_, Error>(renewed.is_some())
            }
        };
        async move { sessions.write(run).await.unwrap() }
    });
    gate.0.0.notified().await;
    let others = claiming(sessions, owner).await.unwrap();
    assert_eq!(others.jobs.len(), 3);
    gate.0.1.notify_one();
    assert!(renewing.await.unwrap());
    fresh.drop().await;
}
