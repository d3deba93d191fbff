-- The circuit breakers of a worker's handlers that are not closed: a JSON object. Under the name of
-- the handler is the store time at which its probe is due, or 'half-open' while that is under way.
-- Null: the worker does not say.
ALTER TABLE workers ADD COLUMN breakers TEXT;
