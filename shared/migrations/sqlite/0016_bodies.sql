-- Payloads and results of more than 4 KiB. A row of `requests` is written anew with each change of
-- its status, and so would be the large bodies in it. Such a row has a short JSON that says where
-- its body is: {"stored_in":"bodies","bytes":5000}. Only the column `in_bodies` decides whether it
-- means that, since a client could send the same text.
--
-- With rowids: a new body is appended, and no other one is moved for it. The unique index has what
-- a search compares, and the order of requests, in which they are deleted.
CREATE TABLE bodies (
    request_id TEXT    NOT NULL,
    kind       TEXT    NOT NULL CHECK (kind IN ('input', 'result')),
    bytes      INTEGER NOT NULL,
    body       TEXT    NOT NULL,  -- JSON
    UNIQUE (request_id, kind)
) STRICT;

-- Which bodies of the request are there: 1: its input, 2: its result, 3: both. One column, because
-- adding a column reads the whole table.
ALTER TABLE requests ADD COLUMN in_bodies INTEGER NOT NULL DEFAULT 0
    CHECK (in_bodies BETWEEN 0 AND 3);
