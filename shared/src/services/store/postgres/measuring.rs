//! What the metrics show of the server: the size of the database, and what vacuum is kept from.
//!
//! Vacuum removes no row version that a snapshot may still see. The oldest `xmin` is that of the
//! oldest snapshot: of a transaction, of a standby that reports its own (by its slot or its
//! connection), or of a prepared transaction. All of this can be read without special rights:
//! <https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-WRAPAROUND>.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout};
use tokio_postgres::Row;

use super::{error::Error, session::Sessions};
use crate::services::store::metrics::{OwnGauge, Sizes};

/// How often the server is asked.
const PERIOD: Duration = Duration::from_secs(10);

/// The size of the database, the dead rows in the tables that are updated, and the oldest `xmin`
/// with its age in transactions.
///
/// Sessions without a user are autovacuum's, which vacuum does not wait for. Those without a
/// database send the log to standbys, and hold every database's rows.
const MEASURE: &str = "
    WITH sessions AS (
        SELECT backend_xmin, backend_xid FROM pg_stat_activity
        WHERE (datname = current_database() OR datname IS NULL)
          AND usesysid IS NOT NULL AND pid <> pg_backend_pid()),
    holders (xmin) AS (
        SELECT backend_xmin FROM sessions
        UNION ALL SELECT backend_xid FROM sessions
        UNION ALL SELECT xmin FROM pg_replication_slots
        UNION ALL SELECT transaction FROM pg_prepared_xacts
            WHERE database = current_database()),
    oldest AS (
        SELECT xmin, age(xmin) AS age FROM holders WHERE xmin IS NOT NULL
        ORDER BY age(xmin) DESC LIMIT 1)
    SELECT pg_database_size(current_database()) AS size,
        (SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_stat_user_tables
         WHERE relid IN ('requests'::regclass, 'redeliveries'::regclass, 'workers'::regclass)
        ) AS dead_rows,
        (SELECT xmin::text FROM oldest) AS xmin,
        coalesce((SELECT age FROM oldest), 0)::bigint AS age";

/// The last measurement.
#[derive(Default)]
pub(super) struct Measured {
    dead_rows: AtomicU64,
    xmin_age: AtomicU64,
    xmin_held: AtomicU64,
}

impl Measured {
    pub(super) fn gauges(&self) -> [OwnGauge; 3] {
        // Relaxed: they order nothing else.
        let value = |of: &AtomicU64| of.load(Ordering::Relaxed);
        [
            (
                "postgres_dead_rows",
                "Dead rows of the queue's tables that vacuum has not removed, estimated.",
                value(&self.dead_rows),
            ),
            (
                "postgres_oldest_xmin_age_transactions",
                "Transactions since the oldest snapshot of a transaction, a slot or a standby.",
                value(&self.xmin_age),
            ),
            (
                "postgres_oldest_xmin_held_seconds",
                "Time for which the oldest snapshot has been the same, while others wrote.",
                value(&self.xmin_held),
            ),
        ]
    }
}

/// The oldest `xmin`, and when it was seen first.
struct Held {
    xmin: String,
    since: Instant,
}

/// Measures the server now, and then again and again until the store closes. Each time, looks also
/// whether another host is the primary.
pub(super) async fn keep_measuring(sessions: &Arc<Sessions>) -> Arc<Measured> {
    let measured = Arc::<Measured>::default();
    let mut held = None;
    measure(sessions, &measured, &mut held).await;
    let (of_task, closing) = (Arc::downgrade(sessions), sessions.closing().clone());
    sessions.tasks().spawn({
        let measured = Arc::clone(&measured);
        async move {
            while let Err(_elapsed) = timeout(PERIOD, closing.cancelled()).await {
                let Some(sessions) = of_task.upgrade() else {
                    return;
                };
                let look = async {
                    tokio::join!(
                        measure(&sessions, &measured, &mut held),
                        sessions.hosts().compare()
                    )
                };
                // A host that does not answer keeps nobody from closing the store.
                let _ = closing.run_until_cancelled(look).await;
            }
        }
    });
    measured
}

/// A failure is in the log, and the last measurement stands.
async fn measure(sessions: &Sessions, measured: &Measured, held: &mut Option<Held>) {
    let Ok(rows) = sessions.query(MEASURE, &[]).await else {
        return;
    };
    let noted = rows.first().map(|row| note(row, sessions, measured, held));
    if let Some(Err(error)) = noted {
        tracing::debug!(error = error.message(), "the server can't be measured");
    }
}

fn note(
    row: &Row,
    sessions: &Sessions,
    measured: &Measured,
    held: &mut Option<Held>,
) -> Result<(), Error> {
    let number =
        |column| Ok::<_, Error>(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0));
    sessions.measures().measured(Sizes {
        database: number("size")?,
        ..Sizes::default()
    });
    let (age, now) = (number("age")?, Instant::now());
    let before = held.take();
    *held = match row.try_get::<_, Option<String>>("xmin")? {
        Some(xmin) if age > 1 => {
            let same = before.filter(|before| before.xmin == xmin);
            Some(same.unwrap_or(Held { xmin, since: now }))
        }
        // Nobody has written since: it keeps no dead row.
        _ => None,
    };
    let since = held.as_ref().map_or(now, |held| held.since);
    for (gauge, value) in [
        (&measured.dead_rows, number("dead_rows")?),
        (&measured.xmin_age, age),
        (&measured.xmin_held, (now - since).as_secs()),
    ] {
        gauge.store(value, Ordering::Relaxed);
    }
    Ok(())
}
