-- What operators have paused. While a row names everything, no claim succeeds; the callbacks to an
-- origin that is named wait in the table.
CREATE TABLE pauses (
    origin    TEXT NOT NULL PRIMARY KEY,  -- empty: everything
    since     TEXT NOT NULL,
    operator  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What operators have done: the newest rows. Older ones are deleted.
CREATE TABLE audit (
    number    INTEGER PRIMARY KEY,
    at        TEXT    NOT NULL,
    operator  TEXT    NOT NULL,
    action    TEXT    NOT NULL,
    filter    TEXT    NOT NULL,  -- JSON: what the action was for
    matched   INTEGER NOT NULL,
    changed   INTEGER NOT NULL,
    dry_run   INTEGER NOT NULL CHECK (dry_run IN (0, 1))
) STRICT;
