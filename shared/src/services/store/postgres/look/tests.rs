use std::{
    collections::HashMap,
    time::{Duration, Instant, UNIX_EPOCH},
};

use super::{
    super::{
        fresh::Fresh,
        known::{Known, Seen, Whole},
    },
    due_jobs,
};
use crate::{
    models::RequestId,
    services::store::{Capacity, Sought},
};

/// Four jobs of `a`, which became due one after another, and one of `b`.
const DUE: &str = "INSERT INTO requests (id, mode, status, input_payload, created_at, due,
        created_by)
    SELECT lpad(n::text, 32, '0')::uuid, 'async', 'PENDING', '{}', now(),
        to_timestamp(n), CASE n WHEN 5 THEN 'b' ELSE 'a' END
    FROM generate_series(1, 5) AS n";

fn nth(n: u32) -> RequestId {
    format!("{n:032}").parse().unwrap()
}

#[tokio::test]
async fn a_busy_search_begins_where_the_last_one_has_found_jobs_and_misses_none_for_it() {
    let fresh = Fresh::open().await;
    fresh.execute(DUE).await;
    let known = Known::default();
    let find = async |jobs: usize| {
        let found = due_jobs(&fresh.sessions, &Capacity::of(jobs), &known).await;
        let mut ids: Vec<_> = found.unwrap().due.into_iter().map(|it| it.id).collect();
        ids.sort();
        ids
    };
    assert_eq!(find(9).await, [1, 2, 3, 4, 5].map(nth));
    // As if the search before it had found the third job first, and nobody claimed it.
    known.note_claimed(1000);
    let whole = Whole {
        at: Instant::now() + Duration::from_hours(1),
        tenants: vec!["a".to_owned()],
        marks: HashMap::from([((0, "a".to_owned()), UNIX_EPOCH + Duration::from_secs(3))]),
        has_long: false,
    };
    let seen = Seen {
        last: "a".to_owned(),
        whole: Some(whole),
    };
    known.note(&Sought::Common, seen);
    for _ in 0..2 {
        assert_eq!(find(2).await, [3, 4].map(nth));
    }
    // There are fewer than it seeks.
    assert_eq!(find(5).await, [1, 2, 3, 4, 5].map(nth));
    fresh.drop().await;
}
