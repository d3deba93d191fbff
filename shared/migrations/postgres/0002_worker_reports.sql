-- What a worker says of itself, for people: a JSON object, written with a heartbeat once a second.
-- Null: it does not say. No code decides by it.
ALTER TABLE workers ADD COLUMN report json;
