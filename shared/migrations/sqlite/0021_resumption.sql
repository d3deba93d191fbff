-- The store time at which everything was resumed last: until then nobody could claim a job, so the
-- time for which one may be parked counts from there. The release before leaves it alone.
ALTER TABLE store ADD COLUMN resumed INTEGER NOT NULL DEFAULT 0;
