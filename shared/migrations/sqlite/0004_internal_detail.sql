-- The full error text of a callback attempt, for operators: it can name internal addresses.
-- Replaces for_operators, which the previous release still writes.
ALTER TABLE attempts ADD COLUMN internal_detail TEXT;
UPDATE attempts SET internal_detail = for_operators WHERE for_operators IS NOT NULL;
