-- Requests, and the identity of this store.

CREATE TABLE store (
    -- Random; entries in the queue carry it, so that two stores can ring through one Redis.
    id TEXT NOT NULL PRIMARY KEY
) STRICT;

INSERT INTO store (id) VALUES (lower(hex(randomblob(16))));

-- Clustered by id (a UUIDv7), so that new rows are appended, and an index on any other column
-- carries the id behind it: rows of one status are found oldest first.
CREATE TABLE requests (
    id              TEXT    NOT NULL PRIMARY KEY
                    CHECK (id GLOB '????????-????-7???-????-????????????'
                           AND id NOT GLOB '*[^0-9a-f-]*' AND length(replace(id, '-', '')) = 32),
    mode            TEXT    NOT NULL CHECK (mode IN ('sync', 'async')),
    status          TEXT    NOT NULL CHECK (status IN ('PENDING', 'PROCESSING', 'COMPLETED', 'FAILED')),
    input_payload   TEXT    NOT NULL,   -- JSON: {"report_name", "records"}
    result_payload  TEXT,               -- JSON: {"report_id", "checksum"}
    callback_url    TEXT,               -- as it was sent; null where the client polls
    created_at      TEXT    NOT NULL,   -- this and every time: RFC 3339, UTC, milliseconds
    completed_at    TEXT,               -- set with COMPLETED and FAILED
    failure_reason  TEXT,               -- set with FAILED; a word of a documented list
    failure_detail  TEXT,
    claim           INTEGER NOT NULL DEFAULT 0, -- counts claims; every later write names its claim
    owner           TEXT,               -- the worker's process that holds the claim
    attempts        INTEGER NOT NULL DEFAULT 0, -- callback attempts with a known outcome
    next_attempt_at TEXT                -- set while the job waits to try again
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_by_status ON requests (status);
