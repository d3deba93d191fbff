-- The requests of each client, for its list: in the order of ids, which the primary key has for the
-- list of all requests. Without tokens the index is empty, and accepting a request costs no more.
CREATE INDEX requests_by_client ON requests (created_by) WHERE created_by IS NOT NULL;
