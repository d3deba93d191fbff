-- Where a callback really goes, who asked for it, what became of each attempt, and delivering once more.

-- The URL's normal form, which alone is dialled; null where that is what was sent.
ALTER TABLE requests ADD COLUMN callback_target TEXT;

-- W3C Trace Context: the caller's, which goes out with the callback; where it sent none, null, and the trace is one
-- of its own by the name of the id.
ALTER TABLE requests ADD COLUMN traceparent TEXT;

-- The name of the token that asked for it; null where the API asks for none.
ALTER TABLE requests ADD COLUMN created_by TEXT;

-- Since when the next attempt has been put off for the sake of its receiver, which is overloaded or down.
ALTER TABLE requests ADD COLUMN parked_since TEXT;

-- How often that was done, in all.
ALTER TABLE requests ADD COLUMN parks INTEGER NOT NULL DEFAULT 0;

-- Attempts that were made before the present series: not zero once somebody has asked for a redelivery.
ALTER TABLE requests ADD COLUMN attempts_before INTEGER NOT NULL DEFAULT 0;

-- Set while a request that is over is delivered once more. Its status stays what it is meanwhile, for
-- a redelivery that fails takes nothing from it.
ALTER TABLE requests ADD COLUMN redelivery TEXT CHECK (redelivery IN ('PENDING', 'PROCESSING'));

-- What a worker goes by: the redelivery where there is one, or else the status.
ALTER TABLE requests ADD COLUMN work TEXT NOT NULL
    GENERATED ALWAYS AS (coalesce(redelivery, status)) VIRTUAL;

DROP INDEX requests_by_status;
CREATE INDEX requests_by_work ON requests (work, next_attempt_at);

DROP INDEX suspects;
CREATE INDEX suspects ON requests (lost_claims, next_attempt_at)
    WHERE work = 'PENDING' AND lost_claims > 0;

-- How many jobs wait for each receiver, by its origin: scheme, host and port of the URL's normal form, which
-- has a slash behind them in any case, the first one from the ninth character on, whether it begins with
-- http:// or https://. It is worked out for jobs that wait alone: one that goes straight through is never in it.
CREATE INDEX waiting_by_origin ON requests (
    substr(coalesce(callback_target, callback_url), 1,
           7 + instr(substr(coalesce(callback_target, callback_url), 9), '/'))
) WHERE work = 'PENDING' AND next_attempt_at IS NOT NULL;

-- Every callback attempt whose outcome is known.
CREATE TABLE attempts (
    request_id    TEXT    NOT NULL,
    number        INTEGER NOT NULL,  -- of this request, from 1, over all series
    started_at    TEXT    NOT NULL,
    duration_ms   INTEGER NOT NULL,
    class         TEXT    NOT NULL,  -- a word of a documented list
    status        INTEGER,           -- the answer's, where there was one
    error         TEXT,              -- what the caller may know
    for_operators TEXT,              -- the whole of it: it can name addresses inside of the operator's network
    PRIMARY KEY (request_id, number)
) STRICT, WITHOUT ROWID;
