-- Idempotency keys: a submission that is repeated with its key makes no second job. A key is stored
-- in the transaction of its job, and free again once its window is over and the job has ended. The
-- release before ignores this table: what it accepts has no key.
--
-- Clustered by the request, as `requests` is: old keys can be deleted in small batches along the
-- primary key.
CREATE TABLE idempotency_keys (
    request_id  TEXT    NOT NULL PRIMARY KEY,  -- the job that it made
    tenant      TEXT    NOT NULL,  -- the client name; empty without one, since null equals no null
    key         TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL,  -- SHA-256 of the submission
    expires     INTEGER NOT NULL,  -- the store time at which the window is over
    UNIQUE (tenant, key)
) STRICT, WITHOUT ROWID;
