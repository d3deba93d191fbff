-- The origin of the callback (scheme, host and port of the normal form), worked out by the service
-- and no longer by SQL. Null without a callback, and in rows that had ended before this migration.
ALTER TABLE requests ADD COLUMN origin TEXT;

UPDATE requests SET origin =
    substr(coalesce(callback_target, callback_url), 1,
           7 + instr(substr(coalesce(callback_target, callback_url), 9), '/'))
WHERE work IN ('PENDING', 'PROCESSING') AND callback_url IS NOT NULL;

-- For the release before, which runs beside this one for a while and writes no origin: in a new
-- job, and in a redelivery of a job that had ended before this migration.
CREATE TRIGGER origin_of_new_job AFTER INSERT ON requests
WHEN NEW.origin IS NULL AND NEW.callback_url IS NOT NULL BEGIN
    UPDATE requests SET origin =
        substr(coalesce(callback_target, callback_url), 1,
               7 + instr(substr(coalesce(callback_target, callback_url), 9), '/'))
    WHERE id = NEW.id;
END;
CREATE TRIGGER origin_of_redelivery AFTER UPDATE OF redelivery ON requests
WHEN NEW.origin IS NULL AND NEW.redelivery IS NOT NULL BEGIN
    UPDATE requests SET origin =
        substr(coalesce(callback_target, callback_url), 1,
               7 + instr(substr(coalesce(callback_target, callback_url), 9), '/'))
    WHERE id = NEW.id;
END;
