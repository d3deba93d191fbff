-- The successful callback with which a job ended: a JSON object. It costs no row of `attempts`,
-- which has all other attempts, those of redeliveries included. Null: the job did not end with one,
-- or the release before ended it.
ALTER TABLE requests ADD COLUMN delivered TEXT;

-- The release before names neither of them.
DROP INDEX suspects;
DROP INDEX waiting_by_origin;

-- For edits by hand: a job that is put back is due at once, and what is claimed or has ended is due
-- at no time.
--
-- Every claim and every end of a job evaluates `due_of_status`. So it does no more than to look:
-- SQLite prepares all that a trigger might do before it evaluates its WHEN, and an UPDATE of
-- `requests` is a long program. The view in between puts that off. And no function is called here:
-- a statement that may fail in the middle keeps a journal of its own.
CREATE VIEW edited AS SELECT id FROM requests;
CREATE TRIGGER due_of_edited INSTEAD OF INSERT ON edited BEGIN
    UPDATE requests SET
        is_long = iif(status = 'PENDING', is_long, 0),
        due = iif(status = 'PENDING', coalesce(due, 0), NULL)
    WHERE id = NEW.id;
END;
DROP TRIGGER due_of_status;
CREATE TRIGGER due_of_status AFTER UPDATE OF status, due ON requests
WHEN (NEW.due IS NULL) = (NEW.status = 'PENDING') BEGIN
    INSERT INTO edited VALUES (NEW.id);
END;

-- A time by the wall clock: no program writes it any more. What was due then has its origin, too.
CREATE TRIGGER due_by_wall_clock AFTER UPDATE OF next_attempt_at ON requests
WHEN NEW.next_attempt_at IS NOT OLD.next_attempt_at AND NEW.status = 'PENDING' BEGIN
    UPDATE requests SET
        due = iif(NEW.next_attempt_at IS NULL, coalesce(due, 0),
            coalesce((SELECT saved FROM clock), 0) + CAST(1000 * (
                unixepoch(next_attempt_at, 'subsec') - unixepoch('now', 'subsec')) AS INTEGER)),
        origin = coalesce(origin,
            substr(coalesce(callback_target, callback_url), 1,
                   7 + instr(substr(coalesce(callback_target, callback_url), 9), '/')))
    WHERE id = NEW.id;
END;
