-- The handler that does the work of a job; null: the built-in report. Until the work is done, a job
-- of another handler counts as long (`is_long`), and is claimed by workers that serve the handler.
ALTER TABLE requests ADD COLUMN handler TEXT;

-- What an attempt was made at: 'work' or 'callback'. Null, in rows of the release before: callback.
ALTER TABLE attempts ADD COLUMN stage TEXT;

-- The handlers that a worker serves beside the report: a JSON array. Null in rows of the release
-- before, which knows the report only, and takes every job for one.
ALTER TABLE workers ADD COLUMN handlers TEXT;

-- The jobs whose work is to be done by a handler, and long reports: of each handler and tenant in
-- the order in which they are due. Short reports, the most frequent jobs, cost no entry.
CREATE INDEX requests_by_handler ON requests (handler, created_by, due)
    WHERE status = 'PENDING' AND is_long = 1;

-- Those whose work is being done, for a count.
CREATE INDEX requests_running ON requests (handler) WHERE status = 'PROCESSING' AND is_long = 1;

-- The first job of a handler sets `store.oldest` to this version: no program of the release before
-- starts from then on. A worker of it that was starting at that moment is refused here.
CREATE TRIGGER worker_of_release_before BEFORE INSERT ON workers
WHEN NEW.handlers IS NULL AND (SELECT max(oldest) FROM store) >= 23 BEGIN
    SELECT RAISE(ABORT, 'this store has jobs of handlers: run a newer version');
END;
