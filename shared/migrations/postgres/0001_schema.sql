-- The whole schema. Names and meanings are those of the SQLite engine, whose migrations say more on
-- each; what differs is said here.
--
-- Times are judged by the server's clock, never by a client's. There are no foreign keys: they
-- would lock a row of another table with each write.

CREATE TABLE store (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- Random. Queue entries carry it, so that several stores can share one Redis.
    id       text NOT NULL,
    -- The migrations that have been applied, and the oldest version whose programs can work with
    -- them.
    version  integer NOT NULL,
    oldest   integer NOT NULL,
    -- When everything was resumed last.
    resumed  timestamptz NOT NULL DEFAULT 'epoch'
);

CREATE TABLE requests (
    id              uuid PRIMARY KEY,
    mode            text NOT NULL CHECK (mode IN ('sync', 'async')),
    status          text NOT NULL
                    CHECK (status IN ('PENDING', 'PROCESSING', 'COMPLETED', 'FAILED')),
    input_payload   json NOT NULL,  -- json keeps the text as it was sent; jsonb would not
    result_payload  json,
    callback_url    text,           -- as sent; null if the client polls
    created_at      timestamptz NOT NULL,
    completed_at    timestamptz,
    failure_reason  text,
    failure_detail  text,
    claim           bigint NOT NULL DEFAULT 0,   -- fencing token: claims so far; writes name it
    owner           uuid,           -- the worker that holds the claim, or held the last one
    due             timestamptz,    -- when a PENDING job may be claimed; null in all other rows
    is_long         boolean NOT NULL DEFAULT false,
    handler         text COLLATE "C",           -- null: the built-in report
    attempts        integer NOT NULL DEFAULT 0,
    attempts_before integer NOT NULL DEFAULT 0,
    lost_claims     integer NOT NULL DEFAULT 0,
    parked_at       timestamptz,
    parks           integer NOT NULL DEFAULT 0,
    created_by      text COLLATE "C",
    origin          text COLLATE "C",
    callback_target text,           -- in normal form; null if equal to the URL as sent
    traceparent     text,
    delivered       json,           -- the successful callback with which the job ended
    ended           timestamptz,    -- by the server's clock: retention counts from here
    erased_at       timestamptz,
    -- What the bodies take in a worker's memory. A claim reads them to see how many fit.
    input_bytes     integer NOT NULL
                    GENERATED ALWAYS AS (octet_length(input_payload::text)) STORED,
    result_bytes    integer GENERATED ALWAYS AS (octet_length(result_payload::text)) STORED,
    CHECK (status <> 'PENDING' OR due IS NOT NULL)
) WITH (
    -- A job is written three times. The versions of a row fit into its page, mostly, and vacuum
    -- comes after a small part of the table has changed.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);

-- Due jobs: of each tenant in the order in which they are due. Claimed and finished rows leave.
-- What has no client name, or is the report's, comes first as the empty name: searches compare and
-- step over names, and null is none. Suspected poison jobs have an index of their own. INCLUDE: a
-- count reads no row of a page that vacuum has seen, if the index has each column that it names.
CREATE INDEX requests_due ON requests (coalesce(created_by, ''), due) INCLUDE (created_by)
    WHERE status = 'PENDING' AND NOT is_long AND lost_claims <= 0;
CREATE INDEX requests_by_handler ON requests (coalesce(handler, ''), coalesce(created_by, ''), due)
    INCLUDE (handler, created_by)
    WHERE status = 'PENDING' AND is_long AND lost_claims <= 0;
CREATE INDEX requests_suspects ON requests (lost_claims, due)
    WHERE status = 'PENDING' AND lost_claims > 0;
-- Jobs that were claimed before: scheduled, parked, released or reclaimed.
CREATE INDEX requests_backlog ON requests (origin, coalesce(created_by, ''), id)
    INCLUDE (created_by)
    WHERE status = 'PENDING' AND claim > 0;
CREATE INDEX requests_waiting ON requests (due)
    WHERE status = 'PENDING' AND claim > 0;
-- What each worker holds.
CREATE INDEX requests_held ON requests (owner) WHERE status = 'PROCESSING';
-- The lists of clients and operators, in the order of ids, which the primary key has for all.
CREATE INDEX requests_by_client ON requests (created_by, id) WHERE created_by IS NOT NULL;
CREATE INDEX requests_failed ON requests (id) WHERE status = 'FAILED';
CREATE INDEX requests_failed_by_client ON requests (created_by, id)
    WHERE status = 'FAILED' AND created_by IS NOT NULL;

-- Redeliveries in progress: the request keeps its status meanwhile.
CREATE TABLE redeliveries (
    id              uuid PRIMARY KEY,
    status          text NOT NULL CHECK (status IN ('PENDING', 'PROCESSING')),
    created_by      text COLLATE "C",
    origin          text COLLATE "C",
    claim           bigint NOT NULL,
    owner           uuid,
    due             timestamptz,
    lost_claims     integer NOT NULL DEFAULT 0,
    attempts        integer NOT NULL,
    attempts_before integer NOT NULL,
    parked_at       timestamptz,
    parks           integer NOT NULL,
    CHECK (status <> 'PENDING' OR due IS NOT NULL)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX redeliveries_due ON redeliveries (coalesce(created_by, ''), due)
    WHERE status = 'PENDING' AND lost_claims <= 0;
CREATE INDEX redeliveries_suspects ON redeliveries (lost_claims, due)
    WHERE status = 'PENDING' AND lost_claims > 0;
CREATE INDEX redeliveries_backlog ON redeliveries (origin, coalesce(created_by, ''), id)
    INCLUDE (created_by)
    WHERE status = 'PENDING' AND claim > 0;
CREATE INDEX redeliveries_waiting ON redeliveries (due)
    WHERE status = 'PENDING' AND claim > 0;
CREATE INDEX redeliveries_held ON redeliveries (owner) WHERE status = 'PROCESSING';

-- One row per live worker process. An observer that sees `beat` unchanged for a whole lease, by its
-- own clock, may expire the lease: it deletes the row and reclaims the worker's jobs. A claim locks
-- the row FOR KEY SHARE, for which a heartbeat's UPDATE does not wait, and the DELETE does. A beat
-- of -1 is no lease: it has expired, and another program had locked some of the worker's jobs.
CREATE TABLE workers (
    owner      uuid PRIMARY KEY,
    beat       bigint NOT NULL,
    renewed_at timestamptz NOT NULL,  -- informational
    ended      bigint NOT NULL DEFAULT 0,
    ended_long bigint NOT NULL DEFAULT 0,
    handlers   text[] NOT NULL,       -- those that it serves beside the report
    breakers   json DEFAULT '{}',     -- null: the worker does not say
    -- The last repeat of a claim. One that was sent before it, and comes late, claims nothing.
    repeats    bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

-- Attempts with a known outcome, but for the successful callback with which a job ends.
CREATE TABLE attempts (
    request_id      uuid NOT NULL,
    number          integer NOT NULL,
    started_at      timestamptz NOT NULL,
    duration_ms     bigint NOT NULL,
    stage           text NOT NULL,
    class           text NOT NULL,
    status          integer,
    error           text,
    internal_detail text,
    claim           bigint NOT NULL,
    PRIMARY KEY (request_id, number)
);

CREATE TABLE events (
    request_id uuid NOT NULL,
    number     integer NOT NULL,
    at         timestamptz NOT NULL,
    event      text NOT NULL,
    claim      bigint NOT NULL,
    detail     text,
    PRIMARY KEY (request_id, number)
);

CREATE TABLE resends (
    request_id uuid NOT NULL,
    number     integer NOT NULL,
    at         timestamptz NOT NULL,
    claim      bigint NOT NULL,
    PRIMARY KEY (request_id, number)
);

CREATE TABLE idempotency_keys (
    request_id  uuid PRIMARY KEY,
    tenant      text COLLATE "C" NOT NULL,  -- empty without a client name: null equals no null
    key         text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    expires     timestamptz NOT NULL,
    expected_at timestamptz NOT NULL,
    UNIQUE (tenant, key)
);

CREATE TABLE cancellations (
    owner  uuid NOT NULL,
    id     uuid NOT NULL,
    claim  bigint NOT NULL,
    beat   bigint NOT NULL,
    PRIMARY KEY (owner, id, claim)
);

CREATE TABLE pauses (
    origin   text COLLATE "C" PRIMARY KEY,  -- empty: everything
    since    timestamptz NOT NULL,
    operator text NOT NULL
);

CREATE TABLE audit (
    number   bigint PRIMARY KEY,
    at       timestamptz NOT NULL,
    operator text NOT NULL,
    action   text NOT NULL,
    filter   json NOT NULL,
    matched  bigint NOT NULL,
    changed  bigint NOT NULL,
    dry_run  boolean NOT NULL
);

-- The health check overwrites a row, so it needs a commit like any write. A process has one of 64:
-- they would wait for each other's commits.
CREATE TABLE health (
    slot       smallint PRIMARY KEY,
    checked_at timestamptz NOT NULL
);
