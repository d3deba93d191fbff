-- Callback targets, tenants, trace context, parking, redelivery, and the record of attempts.

-- The callback URL in normal form, which is the one dialled; null if equal to the URL as sent.
ALTER TABLE requests ADD COLUMN callback_target TEXT;

-- The caller's W3C Trace Context, forwarded with the callback; null if it sent none: then the trace
-- is derived from the id.
ALTER TABLE requests ADD COLUMN traceparent TEXT;

-- The client name of the token; null without authentication.
ALTER TABLE requests ADD COLUMN created_by TEXT;

-- Since when the job has been parked because its receiver is overloaded or down.
ALTER TABLE requests ADD COLUMN parked_since TEXT;

-- How often the job was parked, in total.
ALTER TABLE requests ADD COLUMN parks INTEGER NOT NULL DEFAULT 0;

-- Attempts made before the current series: not zero after a redelivery was requested.
ALTER TABLE requests ADD COLUMN attempts_before INTEGER NOT NULL DEFAULT 0;

-- Set while a finished request is redelivered. `status` keeps its value meanwhile, so that a failed
-- redelivery changes nothing.
ALTER TABLE requests ADD COLUMN redelivery TEXT CHECK (redelivery IN ('PENDING', 'PROCESSING'));

-- The state that workers act on: of the redelivery if there is one, otherwise the status.
ALTER TABLE requests ADD COLUMN work TEXT NOT NULL
    GENERATED ALWAYS AS (coalesce(redelivery, status)) VIRTUAL;

DROP INDEX requests_by_status;
CREATE INDEX requests_by_work ON requests (work, next_attempt_at);

DROP INDEX suspects;
CREATE INDEX suspects ON requests (lost_claims, next_attempt_at)
    WHERE work = 'PENDING' AND lost_claims > 0;

-- The backlog of each origin (scheme, host and port of the normal form). The origin ends before the
-- first slash from the ninth character on, for http:// and https:// alike; the normal form always
-- has one. The index holds scheduled and parked jobs only: a job delivered at once never enters it.
CREATE INDEX waiting_by_origin ON requests (
    substr(coalesce(callback_target, callback_url), 1,
           7 + instr(substr(coalesce(callback_target, callback_url), 9), '/'))
) WHERE work = 'PENDING' AND next_attempt_at IS NOT NULL;

-- Callback attempts with a known outcome.
CREATE TABLE attempts (
    request_id    TEXT    NOT NULL,
    number        INTEGER NOT NULL,  -- within the request, from 1, over all series
    started_at    TEXT    NOT NULL,
    duration_ms   INTEGER NOT NULL,
    class         TEXT    NOT NULL,  -- one of a documented list
    status        INTEGER,           -- HTTP status code, if there was a response
    error         TEXT,              -- what the client may see
    for_operators TEXT,              -- full error text; it can name internal addresses
    PRIMARY KEY (request_id, number)
) STRICT, WITHOUT ROWID;
