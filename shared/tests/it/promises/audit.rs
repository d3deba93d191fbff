//! The record of what operators have done, as it is read.

use storm_shared::{
    models::ClientName,
    services::store::{AuditRecord, Paused, Store},
};

use crate::database::TestDatabase;

on_every_engine! {
    pages_of_the_audit_miss_no_record_and_repeat_none_whatever_is_added_meanwhile,
}

async fn act(store: &Store, operator: &str) {
    let operator: ClientName = operator.parse().unwrap();
    store.resume(Paused::Everything, operator).await.unwrap();
}

async fn pages_of_the_audit_miss_no_record_and_repeat_none_whatever_is_added_meanwhile(
    database: TestDatabase,
) {
    let store = database.open().await;
    let names = |records: Vec<AuditRecord>| -> Vec<String> {
        records.into_iter().map(|it| it.operator).collect()
    };
    assert!(store.audit(None, 9).await.unwrap().is_empty());
    for operator in ["a", "b", "c", "d", "e"] {
        act(&store, operator).await;
    }
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = store.audit(before, 2).await.unwrap();
        act(&store, "later").await;
        assert!(page.is_sorted_by(|one, next| one.number > next.number));
        let Some(last) = page.last() else { break };
        before = Some(last.number);
        seen.extend(names(page));
    }
    assert_eq!(seen, ["e", "d", "c", "b", "a"]);
    let newest = names(store.audit(None, 4).await.unwrap());
    assert_eq!(newest, ["later"; 4]);
}
