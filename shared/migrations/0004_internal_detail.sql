-- What went wrong in a callback attempt, in full: for operators, it can name addresses.
-- It replaces for_operators, which the release before still writes.
ALTER TABLE attempts ADD COLUMN internal_detail TEXT;
UPDATE attempts SET internal_detail = for_operators WHERE for_operators IS NOT NULL;
