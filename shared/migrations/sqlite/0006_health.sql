-- The health check overwrites this one row, so it needs a commit like any write, and leaves no
-- trace among the requests.
CREATE TABLE health (
    one        INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    checked_at TEXT    NOT NULL,  -- informational
    filler     BLOB    NOT NULL   -- random: the check writes as many pages as accepting a job does
) STRICT, WITHOUT ROWID;
