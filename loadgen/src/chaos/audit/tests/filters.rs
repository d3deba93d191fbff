//! The actions of operators by filter, and the changes that belong to them.

use storm_shared::{
    models::{AttemptClass, CallbackUrl, RequestId, Status},
    services::{
        report::expected,
        store::{Bulk, BulkAction, Outcome, OwnerId, Scope, Store, WorkResult},
    },
};

use super::{Audit, Audited, accept, audited, claim, finish, spec};
use crate::chaos::{
    engine::Engine,
    history::{FilterAction, FilterApplied, Record, Transition},
};

/// A new job with a callback.
async fn accepted(store: &Store) -> RequestId {
    accept(store, Some(CallbackUrl::parse("http://a/").unwrap())).await
}

async fn complete(store: &Store) -> RequestId {
    let id = accepted(store).await;
    let claim = claim(store, OwnerId::generate(), id).await;
    let report = WorkResult::of(&expected(&spec()));
    let end = finish(1, AttemptClass::Success, Outcome::Completed);
    store.settle(claim, Some(report), end).await.unwrap();
    id
}

async fn apply(store: &Store, action: BulkAction, ids: &[RequestId], dry_run: bool) -> usize {
    let bulk = Bulk {
        action,
        ids: ids.to_vec(),
        with_cancelled: true,
        dry_run,
        matched: ids.len(),
        filter: "{}".to_owned(),
        operator: "ops".parse().unwrap(),
    };
    store.apply(bulk).await.unwrap().changed
}

async fn applied(audit: &Audit) -> (Vec<FilterApplied>, Vec<Transition>) {
    let (mut applied, mut by_filter) = (Vec::new(), Vec::new());
    for record in audit.records().await.unwrap() {
        match record {
            Record::FilterApplied(it) => applied.push(it),
            Record::Transition(moved) if moved.by_filter => by_filter.push(moved),
            _ => {}
        }
    }
    (applied, by_filter)
}

pub(super) async fn the_changes_of_an_action_by_filter_are_those_before_its_record(on: Engine) {
    let Audited { store, audit, .. } = &audited(on).await;
    let (pending, done) = (accepted(store).await, complete(store).await);
    let by_client = accepted(store).await;
    store.redeliver(Scope::All, done).await.unwrap().unwrap();
    // Right before it, and not a part of it.
    store.cancel(Scope::All, by_client).await.unwrap().unwrap();
    let all = [pending, done, by_client];
    assert_eq!(apply(store, BulkAction::Cancel, &all, true).await, 0);
    assert_eq!(apply(store, BulkAction::Cancel, &all, false).await, 2);
    assert_eq!(apply(store, BulkAction::Redeliver, &all, false).await, 1);

    let (applied, by_filter) = applied(audit).await;
    let of = |it: &FilterApplied| {
        (
            it.action,
            it.dry_run,
            it.matched,
            it.changed,
            it.ids.clone(),
        )
    };
    assert_eq!(
        applied.iter().map(of).collect::<Vec<_>>(),
        [
            (FilterAction::Cancel, true, 3, 0, vec![]),
            (FilterAction::Cancel, false, 3, 2, vec![pending, done]),
            (FilterAction::Redeliver, false, 3, 1, vec![done]),
        ]
    );
    // The job; the redelivery, its job, and the redelivery again; the beginning of the next one.
    let ids: Vec<_> = by_filter.iter().map(|moved| moved.id).collect();
    assert_eq!(ids, [pending, done, done, done, done]);
    assert_eq!(by_filter[0].after.status, Status::Failed);
    assert_eq!(by_filter[0].reason.as_deref(), Some("cancelled"));
    for (of, part) in [
        (&applied[1], &by_filter[..4]),
        (&applied[2], &by_filter[4..]),
    ] {
        assert!(
            part.iter()
                .all(|it| it.at == of.at && it.not_before == Some(of.not_before))
        );
    }
}

pub(super) async fn a_record_that_counts_more_than_there_is_has_fewer_changes(on: Engine) {
    let Audited { store, audit, .. } = &audited(on).await;
    let (done, pending) = (complete(store).await, accepted(store).await);
    apply(store, BulkAction::Cancel, &[pending], false).await;
    apply(store, BulkAction::Redeliver, &[done], false).await;
    audit.execute("UPDATE chaos_audit SET changed = 2").await;
    let (applied, _) = applied(audit).await;
    let ids: Vec<_> = applied.into_iter().map(|it| (it.changed, it.ids)).collect();
    assert_eq!(ids, [(2, vec![pending]), (2, vec![done])]);
}
