-- Whether the job is expected to run for long; 0 once its result is stored. Long jobs get a part of
-- a worker's slots only. Jobs that the release before accepts count as short.
ALTER TABLE requests ADD COLUMN is_long INTEGER NOT NULL DEFAULT 0;
UPDATE requests SET is_long = 1
WHERE status IN ('PENDING', 'PROCESSING') AND result_payload IS NULL
  AND iif(json_valid(input_payload), input_payload ->> '$.records' > 500, 0);

-- The jobs of each tenant in the order in which they are due. Suspected poison jobs wait apart. A
-- redelivery has its result.
CREATE INDEX requests_pending ON requests (is_long, coalesce(created_by, ''), due)
    WHERE status = 'PENDING' AND mode = 'async' AND lost_claims <= 0;
CREATE INDEX redeliveries_pending ON redeliveries (coalesce(created_by, ''), due)
    WHERE status = 'PENDING' AND lost_claims <= 0;
