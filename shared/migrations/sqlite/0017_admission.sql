-- The jobs that a worker has ended since it registered. The API measures by it how fast the backlog
-- drains. The release before leaves it at 0.
ALTER TABLE workers ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;

-- When the job of a key was expected to end, as its first answer said: a repeat gets that answer.
-- Null in keys of the release before.
ALTER TABLE idempotency_keys ADD COLUMN expected_at TEXT;
