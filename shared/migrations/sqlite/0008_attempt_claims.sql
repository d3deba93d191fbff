-- The fencing token under which an attempt was made, so that a write that is repeated because its
-- answer was lost is recognised. Null in rows of the release before.
ALTER TABLE attempts ADD COLUMN claim INTEGER;
