-- How many of the jobs that a worker has ended since it registered were long ones, as of its last
-- heartbeat. 0 of a worker of the release before.
ALTER TABLE workers ADD COLUMN ended_long INTEGER NOT NULL DEFAULT 0;
