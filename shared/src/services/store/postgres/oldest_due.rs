//! How long the oldest due job has been due.

use std::time::Duration;

use super::{error::Error, session::Session};

/// The most tenants of a lane, and numbers of lost claims, that are looked at. There are no more
/// tokens than this.
const MOST: usize = 1024;

/// How long the oldest due job has been due. A skip scan: a step of an index for each tenant and
/// handler, and for each number of lost claims.
pub(super) async fn oldest_due_age(session: &Session) -> Result<Option<Duration>, Error> {
    let tenant = "coalesce(created_by, '')";
    let handler = "coalesce(handler, '')";
    let mut firsts = Vec::new();
    for (table, rows, group) in [
        (
            "requests",
            "NOT is_long AND lost_claims <= 0",
            (tenant, "''"),
        ),
        (
            "requests",
            "is_long AND lost_claims <= 0",
            (handler, tenant),
        ),
        ("requests", "lost_claims > 0", ("lost_claims", "''")),
        ("redeliveries", "lost_claims <= 0", (tenant, "''")),
        ("redeliveries", "lost_claims > 0", ("lost_claims", "''")),
    ] {
        firsts.push(first_of_each(table, rows, group));
    }
    let sql = format!(
        "SELECT floor(extract(epoch FROM now() - min(due)) * 1000)::bigint AS age
         FROM ({}) AS first WHERE due <= now()",
        firsts.join(" UNION ALL ")
    );
    let age = session.find(&sql, &[]).await?;
    let age = age.map(|row| row.try_get::<_, Option<i64>>("age"));
    let age = age.transpose()?.flatten();
    Ok(age.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0))))
}

/// SQL for the first due time of each group, of the jobs in `rows` that wait for a worker.
fn first_of_each(table: &str, rows: &str, (outer, inner): (&str, &str)) -> String {
    // The epoch stands for a time that is over; nobody knows since when.
    let select = format!(
        "SELECT {outer} AS a, {inner} AS b, due FROM {table}
         WHERE status = 'PENDING' AND {rows} AND due > 'epoch'"
    );
    let columns = if inner == "''" {
        outer.to_owned()
    } else {
        format!("{outer}, {inner}")
    };
    let after = if inner == "''" {
        format!("{outer} > group_before.a")
    } else {
        format!("({outer}, {inner}) > (group_before.a, group_before.b)")
    };
    let first = format!("ORDER BY {columns}, due LIMIT 1");
    format!(
        "(WITH RECURSIVE group_before AS (
             ({select} {first})
             UNION ALL
             SELECT next.* FROM group_before CROSS JOIN LATERAL (
                 {select} AND {after} {first}) AS next)
         SELECT due FROM group_before LIMIT {MOST})"
    )
}
