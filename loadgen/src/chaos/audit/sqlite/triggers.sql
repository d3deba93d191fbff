-- The auditor's log of all row changes. Triggers write it in the transaction that makes the change,
-- so a change that is rolled back is not logged. Nothing here has a time: the only clock that SQL
-- can read is the wall clock, which the run steps. The auditor notes when it sees each number.
-- Payloads and results over 4 KiB are in `bodies`. The moves have the short text in their place.

CREATE TABLE chaos_moves (
    number           INTEGER PRIMARY KEY,   -- the commit order, common to both tables
    redelivery       INTEGER NOT NULL,      -- 1: of `redeliveries`, 0: of `requests`
    id               TEXT NOT NULL,
    old_status       TEXT,                  -- null for an insert
    old_claim        INTEGER,
    old_owner        TEXT,
    old_attempts     INTEGER,
    old_lost_claims  INTEGER,
    old_result       TEXT,
    old_parks        INTEGER,
    old_due          INTEGER,
    new_status       TEXT,                  -- null for a deletion
    new_claim        INTEGER NOT NULL,
    new_owner        TEXT,
    new_attempts     INTEGER NOT NULL,
    new_lost_claims  INTEGER NOT NULL,
    new_result       TEXT,
    new_parks        INTEGER NOT NULL,
    new_due          INTEGER,
    erases           INTEGER NOT NULL,      -- 1: `erased_at` was set or changed
    reason           TEXT                   -- `failure_reason` of a request after it
) STRICT;

CREATE TABLE chaos_events (
    number      INTEGER PRIMARY KEY,
    id          TEXT NOT NULL,
    event       TEXT NOT NULL,
    claim       INTEGER NOT NULL,
    detail      TEXT
) STRICT;

-- What the first erasure of each row removed that the rules still need.
CREATE TABLE chaos_erased (
    id            TEXT NOT NULL PRIMARY KEY,
    report_name   TEXT,
    called_back   INTEGER NOT NULL,
    erased_at     TEXT,
    outcome_kept  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE chaos_pauses (
    number  INTEGER PRIMARY KEY,
    origin  TEXT NOT NULL,          -- empty: everything
    paused  INTEGER NOT NULL
) STRICT;

-- The store's own record of operators' actions.
CREATE TABLE chaos_audit (
    number   INTEGER PRIMARY KEY,
    action   TEXT NOT NULL,
    filter   TEXT NOT NULL,
    matched  INTEGER NOT NULL,
    changed  INTEGER NOT NULL,
    dry_run  INTEGER NOT NULL
) STRICT;

-- The last state of each row that was deleted.
CREATE TABLE chaos_deleted (
    number          INTEGER PRIMARY KEY,
    id              TEXT NOT NULL,
    report_name     TEXT,
    status          TEXT NOT NULL,
    claim           INTEGER NOT NULL,
    owner           TEXT,
    attempts        INTEGER NOT NULL,
    lost_claims     INTEGER NOT NULL,
    result_payload  TEXT,
    parks           INTEGER NOT NULL,
    failure_reason  TEXT,
    failure_detail  TEXT,
    called_back     INTEGER NOT NULL,
    completed_at    TEXT,
    created_at      TEXT NOT NULL,
    ended           INTEGER,
    redelivering    INTEGER NOT NULL,
    handler         TEXT
) STRICT;

-- The names of the jobs of handlers, wherever their payloads are.
CREATE TABLE chaos_names (
    id    TEXT NOT NULL PRIMARY KEY,
    name  TEXT
) STRICT, WITHOUT ROWID;

-- What came of the work of jobs of handlers: a result, or the reason of a failure.
CREATE TABLE chaos_worked (
    number  INTEGER PRIMARY KEY,
    id      TEXT NOT NULL,
    result  TEXT,
    reason  TEXT
) STRICT;

-- The attempts at work, also of deleted requests.
CREATE TABLE chaos_work_attempts (
    request_id  TEXT NOT NULL,
    number      INTEGER NOT NULL,
    claim       INTEGER NOT NULL,
    class       TEXT NOT NULL,
    status      INTEGER
) STRICT;

-- The successful attempts, also of deleted requests.
CREATE TABLE chaos_successes (
    request_id  TEXT NOT NULL,
    number      INTEGER NOT NULL,
    claim       INTEGER NOT NULL,
    PRIMARY KEY (request_id, number, claim)
) STRICT, WITHOUT ROWID;

-- The last number of all tables. Each trigger takes the next one.
CREATE VIEW chaos_last AS SELECT max(
    coalesce((SELECT max(number) FROM chaos_moves), 0),
    coalesce((SELECT max(number) FROM chaos_events), 0),
    coalesce((SELECT max(number) FROM chaos_deleted), 0),
    coalesce((SELECT max(number) FROM chaos_pauses), 0),
    coalesce((SELECT max(number) FROM chaos_audit), 0),
    coalesce((SELECT max(number) FROM chaos_worked), 0)
) AS number;

CREATE TRIGGER chaos_inserted AFTER INSERT ON requests BEGIN
    INSERT INTO chaos_moves SELECT
        number + 1, 0, NEW.id,
        NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
        NEW.status, NEW.claim, NEW.owner, NEW.attempts, NEW.lost_claims, NEW.result_payload,
        NEW.parks, NEW.due, 0, NEW.failure_reason
    FROM chaos_last;
END;

-- An erasure empties `bodies` first, and `in_bodies` with that: no change of state.
CREATE TRIGGER chaos_updated AFTER UPDATE ON requests
WHEN NOT (NEW.in_bodies = 0 AND OLD.in_bodies <> 0
    AND (OLD.status, OLD.claim, OLD.owner, OLD.attempts, OLD.lost_claims, OLD.result_payload,
         OLD.parks, OLD.due, OLD.erased_at)
    IS
        (NEW.status, NEW.claim, NEW.owner, NEW.attempts, NEW.lost_claims, NEW.result_payload,
         NEW.parks, NEW.due, NEW.erased_at))
BEGIN
    INSERT INTO chaos_moves SELECT
        number + 1, 0, NEW.id,
        OLD.status, OLD.claim, OLD.owner, OLD.attempts, OLD.lost_claims, OLD.result_payload,
        OLD.parks, OLD.due,
        NEW.status, NEW.claim, NEW.owner, NEW.attempts, NEW.lost_claims, NEW.result_payload,
        NEW.parks, NEW.due, OLD.erased_at IS NOT NEW.erased_at, NEW.failure_reason
    FROM chaos_last;
END;

CREATE TRIGGER chaos_erased AFTER UPDATE OF erased_at ON requests
WHEN OLD.erased_at IS NOT NEW.erased_at BEGIN
    INSERT OR IGNORE INTO chaos_erased VALUES (
        NEW.id, json_extract(OLD.input_payload, '$.report_name'), OLD.callback_url IS NOT NULL,
        NEW.erased_at,
        (OLD.mode, OLD.status, OLD.claim, OLD.owner, OLD.attempts, OLD.lost_claims, OLD.parks,
         OLD.failure_reason, OLD.created_by, OLD.created_at, OLD.completed_at, OLD.ended)
        IS
        (NEW.mode, NEW.status, NEW.claim, NEW.owner, NEW.attempts, NEW.lost_claims, NEW.parks,
         NEW.failure_reason, NEW.created_by, NEW.created_at, NEW.completed_at, NEW.ended)
    );
END;

-- A redelivery has the result of its request.
CREATE TRIGGER chaos_redelivery_inserted AFTER INSERT ON redeliveries BEGIN
    INSERT INTO chaos_moves SELECT
        number + 1, 1, NEW.id,
        NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
        NEW.status, NEW.claim, NEW.owner, NEW.attempts, NEW.lost_claims,
        (SELECT result_payload FROM requests WHERE id = NEW.id), NEW.parks, NEW.due, 0, NULL
    FROM chaos_last;
END;

CREATE TRIGGER chaos_redelivery_updated AFTER UPDATE ON redeliveries BEGIN
    INSERT INTO chaos_moves SELECT
        number + 1, 1, NEW.id,
        OLD.status, OLD.claim, OLD.owner, OLD.attempts, OLD.lost_claims, result, OLD.parks, OLD.due,
        NEW.status, NEW.claim, NEW.owner, NEW.attempts, NEW.lost_claims, result, NEW.parks, NEW.due,
        0, NULL
    FROM chaos_last, (SELECT (SELECT result_payload FROM requests WHERE id = NEW.id) AS result);
END;

CREATE TRIGGER chaos_redelivery_deleted AFTER DELETE ON redeliveries BEGIN
    INSERT INTO chaos_moves SELECT
        number + 1, 1, OLD.id,
        OLD.status, OLD.claim, OLD.owner, OLD.attempts, OLD.lost_claims, result, OLD.parks, OLD.due,
        NULL, OLD.claim, OLD.owner, OLD.attempts, OLD.lost_claims, result, OLD.parks, NULL, 0,
        NULL
    FROM chaos_last, (SELECT (SELECT result_payload FROM requests WHERE id = OLD.id) AS result);
END;

CREATE TRIGGER chaos_paused AFTER INSERT ON pauses BEGIN
    INSERT INTO chaos_pauses SELECT number + 1, NEW.origin, 1 FROM chaos_last;
END;

CREATE TRIGGER chaos_resumed AFTER DELETE ON pauses BEGIN
    INSERT INTO chaos_pauses SELECT number + 1, OLD.origin, 0 FROM chaos_last;
END;

CREATE TRIGGER chaos_audited AFTER INSERT ON audit BEGIN
    INSERT INTO chaos_audit
    SELECT number + 1, NEW.action, NEW.filter, NEW.matched, NEW.changed, NEW.dry_run
    FROM chaos_last;
END;

CREATE TRIGGER chaos_event AFTER INSERT ON events BEGIN
    INSERT INTO chaos_events
    SELECT number + 1, NEW.request_id, NEW.event, NEW.claim, NEW.detail FROM chaos_last;
END;

CREATE TRIGGER chaos_resend AFTER INSERT ON resends BEGIN
    INSERT INTO chaos_events
    SELECT number + 1, NEW.request_id, 'resent', NEW.claim, NULL FROM chaos_last;
END;

CREATE TRIGGER chaos_request_deleted BEFORE DELETE ON requests BEGIN
    INSERT INTO chaos_deleted SELECT
        number + 1, OLD.id,
        coalesce(json_extract(OLD.input_payload, '$.report_name'), erased.report_name,
            (SELECT name FROM chaos_names WHERE id = OLD.id)),
        OLD.status, OLD.claim, OLD.owner, OLD.attempts, OLD.lost_claims, OLD.result_payload,
        OLD.parks, OLD.failure_reason, OLD.failure_detail,
        OLD.callback_url IS NOT NULL OR coalesce(erased.called_back, 0),
        OLD.completed_at, OLD.created_at, OLD.ended,
        EXISTS (SELECT 1 FROM redeliveries WHERE id = OLD.id), OLD.handler
    FROM chaos_last LEFT JOIN chaos_erased AS erased ON erased.id = OLD.id;
END;

CREATE TRIGGER chaos_success AFTER INSERT ON attempts WHEN NEW.class = 'success' BEGIN
    INSERT OR IGNORE INTO chaos_successes VALUES (NEW.request_id, NEW.number, NEW.claim);
END;

CREATE TRIGGER chaos_delivered AFTER UPDATE OF delivered ON requests
WHEN NEW.delivered IS NOT OLD.delivered BEGIN
    INSERT OR IGNORE INTO chaos_successes
    VALUES (NEW.id, NEW.delivered ->> 'number', NEW.delivered ->> 'claim');
END;

CREATE TRIGGER chaos_handled AFTER INSERT ON requests WHEN NEW.handler IS NOT NULL BEGIN
    INSERT OR REPLACE INTO chaos_names
    VALUES (NEW.id, json_extract(NEW.input_payload, '$.report_name'));
END;

CREATE TRIGGER chaos_large_input AFTER INSERT ON bodies WHEN NEW.kind = 'input' BEGIN
    INSERT OR REPLACE INTO chaos_names
    VALUES (NEW.request_id, json_extract(NEW.body, '$.report_name'));
END;

CREATE TRIGGER chaos_large_result AFTER INSERT ON bodies WHEN NEW.kind = 'result' BEGIN
    INSERT INTO chaos_worked SELECT number + 1, NEW.request_id, NEW.body, NULL FROM chaos_last;
END;

-- A large result is logged with its body. No other write changes a body.
CREATE TRIGGER chaos_result AFTER UPDATE OF result_payload ON requests
WHEN NEW.handler IS NOT NULL AND NEW.result_payload IS NOT NULL
    AND OLD.result_payload IS NOT NEW.result_payload AND NEW.in_bodies & 2 = 0
BEGIN
    INSERT INTO chaos_worked SELECT number + 1, NEW.id, NEW.result_payload, NULL FROM chaos_last;
END;

CREATE TRIGGER chaos_work_failed AFTER UPDATE OF failure_reason ON requests
WHEN NEW.failure_reason IN ('work_failed', 'work_timed_out')
    AND OLD.failure_reason IS NOT NEW.failure_reason
BEGIN
    INSERT INTO chaos_worked SELECT number + 1, NEW.id, NULL, NEW.failure_reason FROM chaos_last;
END;

CREATE TRIGGER chaos_work_attempt AFTER INSERT ON attempts WHEN NEW.stage = 'work' BEGIN
    INSERT INTO chaos_work_attempts
    VALUES (NEW.request_id, NEW.number, NEW.claim, NEW.class, NEW.status);
END;
