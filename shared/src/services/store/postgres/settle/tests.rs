use tokio_postgres::types::Type;

use super::{super::fresh::Fresh, End, Found, settle_jobs};
use crate::services::store::{Claim, Outcome, OwnerId, Settlement, Work};

/// Two jobs of a worker. The second one has been claimed again since.
const HELD: &str = "
INSERT INTO requests (id, mode, status, input_payload, created_at, claim, owner)
SELECT lpad(n::text, 32, '0')::uuid, 'async', 'PROCESSING', '{}', now(), n, $1
FROM generate_series(1, 2) AS n";

/// As soon as jobs are settled, one of the tables is gone in which earlier settlements are found.
const BREAK: &str = "
CREATE FUNCTION break() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    ALTER TABLE attempts RENAME TO gone; RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER breaks AFTER UPDATE ON requests DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION break()";

#[tokio::test]
async fn settlements_that_are_committed_succeed_also_if_the_others_can_not_be_looked_for() {
    let fresh = Fresh::open().await;
    let owner = OwnerId::generate();
    let values = [(&owner.uuid() as _, Type::UUID)];
    fresh.sessions.commit_one(HELD, &values).await.unwrap();
    fresh.execute(BREAK).await;
    let ends = [1, 2].map(|n| {
        let claim = Claim {
            id: format!("{n:032}").parse().unwrap(),
            work: Work::Job,
            owner,
            number: 1,
        };
        let settlement = Settlement::Finish {
            attempt: None,
            outcome: Outcome::Completed,
        };
        End::new(claim, None, settlement)
    });
    let answers = settle_jobs(&fresh.sessions, &ends).await.unwrap();
    assert!(
        matches!(&answers[..], [Ok(Found::Ended), Err(_)]),
        "{answers:?}"
    );
    let completed = "SELECT count(*) FROM requests WHERE status = 'COMPLETED'";
    let rows = fresh.sessions.query(completed, &[]).await.unwrap();
    assert_eq!(rows[0].get::<_, i64>(0), 1);
    fresh.drop().await;
}
