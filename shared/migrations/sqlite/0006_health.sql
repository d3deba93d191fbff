-- The health check overwrites this one row, so it needs a commit like any write, and leaves no
-- trace among the requests.
CREATE TABLE health (
    one        INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    checked_at TEXT    NOT NULL  -- informational
) STRICT, WITHOUT ROWID;
