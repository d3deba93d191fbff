-- When a finished request's payload, result and URL were removed at the request of its client. The
-- release before redelivers no such request: it has no result.
ALTER TABLE requests ADD COLUMN erased_at TEXT;
