-- The auditor's log of all row changes. Triggers write it in the transaction that makes the change,
-- so a change that is rolled back is not logged.

CREATE TABLE chaos_moves (
    number           INTEGER PRIMARY KEY,   -- the commit order
    at               TEXT NOT NULL,
    id               TEXT NOT NULL,
    old_status       TEXT,                  -- null for an insert
    old_claim        INTEGER,
    old_owner        TEXT,
    old_attempts     INTEGER,
    old_lost_claims  INTEGER,
    old_result       TEXT,
    old_parks        INTEGER,
    new_status       TEXT NOT NULL,
    new_claim        INTEGER NOT NULL,
    new_owner        TEXT,
    new_attempts     INTEGER NOT NULL,
    new_lost_claims  INTEGER NOT NULL,
    new_result       TEXT,
    new_parks        INTEGER NOT NULL
) STRICT;

CREATE TRIGGER chaos_inserted AFTER INSERT ON requests BEGIN
    INSERT INTO chaos_moves VALUES (
        NULL, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), NEW.id,
        NULL, NULL, NULL, NULL, NULL, NULL, NULL,
        NEW.status, NEW.claim, NEW.owner, NEW.attempts, NEW.lost_claims, NEW.result_payload,
        NEW.parks
    );
END;

CREATE TRIGGER chaos_updated AFTER UPDATE ON requests BEGIN
    INSERT INTO chaos_moves VALUES (
        NULL, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), NEW.id,
        OLD.status, OLD.claim, OLD.owner, OLD.attempts, OLD.lost_claims, OLD.result_payload,
        OLD.parks,
        NEW.status, NEW.claim, NEW.owner, NEW.attempts, NEW.lost_claims, NEW.result_payload,
        NEW.parks
    );
END;
