-- When a request ended, by the store's clock: it is kept for the retention time from then on. The
-- sweep sets it where a row that has ended has none: those of the release before.
ALTER TABLE requests ADD COLUMN ended INTEGER;
