-- Claims of running jobs that a client has cancelled. The heartbeat of their worker reads them, so
-- that it stops the jobs, and deletes them a few beats later.
CREATE TABLE cancellations (
    owner  TEXT    NOT NULL,
    id     TEXT    NOT NULL,  -- the request
    claim  INTEGER NOT NULL,  -- the number under which the worker held it
    beat   INTEGER NOT NULL,  -- that of the worker at that moment
    PRIMARY KEY (owner, id, claim)
) STRICT, WITHOUT ROWID;
