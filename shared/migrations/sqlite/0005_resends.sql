-- Callbacks that went out once more within an attempt, because a kept-alive connection ended
-- without an answer. Each is recorded before it is sent: the receiver may have got both.
CREATE TABLE resends (
    request_id TEXT    NOT NULL,
    number     INTEGER NOT NULL,  -- within the request, from 1
    at         TEXT    NOT NULL,
    claim      INTEGER NOT NULL,  -- the fencing token of the attempt
    PRIMARY KEY (request_id, number)
) STRICT, WITHOUT ROWID;
