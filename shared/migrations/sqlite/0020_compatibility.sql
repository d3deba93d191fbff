-- The oldest schema version whose programs can work with this schema: they may start on it,
-- although it is newer than theirs. Set by the program that migrates.
ALTER TABLE store ADD COLUMN oldest INTEGER NOT NULL DEFAULT 0;
