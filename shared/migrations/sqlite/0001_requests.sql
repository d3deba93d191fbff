-- Requests, and the identity of this store.

CREATE TABLE store (
    -- Random. Queue entries carry it, so that several stores can share one Redis.
    id TEXT NOT NULL PRIMARY KEY
) STRICT;

INSERT INTO store (id) VALUES (lower(hex(randomblob(16))));

-- WITHOUT ROWID clusters rows by id (a UUIDv7): new rows are appended, and every index entry ends
-- with the id, so rows of one status are read oldest first.
CREATE TABLE requests (
    id              TEXT    NOT NULL PRIMARY KEY
                    CHECK (id GLOB '????????-????-7???-????-????????????'
                           AND id NOT GLOB '*[^0-9a-f-]*' AND length(replace(id, '-', '')) = 32),
    mode            TEXT    NOT NULL CHECK (mode IN ('sync', 'async')),
    status          TEXT    NOT NULL CHECK (status IN ('PENDING', 'PROCESSING', 'COMPLETED', 'FAILED')),
    input_payload   TEXT    NOT NULL,   -- JSON: {"report_name", "records"}
    result_payload  TEXT,               -- JSON: {"report_id", "checksum"}
    callback_url    TEXT,               -- as sent; null if the client polls
    created_at      TEXT    NOT NULL,   -- like every time here: RFC 3339, UTC, milliseconds
    completed_at    TEXT,               -- set with COMPLETED and FAILED
    failure_reason  TEXT,               -- set with FAILED; one of a documented list
    failure_detail  TEXT,
    claim           INTEGER NOT NULL DEFAULT 0, -- fencing token: claims so far; writes name it
    owner           TEXT,               -- the worker process that holds the claim
    attempts        INTEGER NOT NULL DEFAULT 0, -- callback attempts with a known outcome
    next_attempt_at TEXT                -- when a scheduled job is due
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_by_status ON requests (status);
