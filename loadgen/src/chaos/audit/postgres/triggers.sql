-- The auditor's log of all row changes, as that of SQLite (`sqlite/triggers.sql` says more on each
-- table). What differs:
--
-- * Many transactions write at once. `number` is a sequence: it orders the changes of one row,
--   whose lock the second writer waits for, and those of one transaction. `xid` says of which
--   transaction a change is, so that the auditor can tell when it was committed.
-- * Times are the server's, in microseconds since 1970.
-- * There is no table `bodies`. A long result is logged as its digest.

CREATE SEQUENCE chaos_numbers;

CREATE TABLE chaos_moves (
    number           bigint PRIMARY KEY DEFAULT nextval('chaos_numbers'),
    xid              bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    redelivery       boolean NOT NULL,
    id               uuid NOT NULL,
    old_status       text,
    old_claim        bigint,
    old_owner        uuid,
    old_attempts     bigint,
    old_lost_claims  bigint,
    old_result       text,
    old_parks        bigint,
    old_due          bigint,
    new_status       text,
    new_claim        bigint NOT NULL,
    new_owner        uuid,
    new_attempts     bigint NOT NULL,
    new_lost_claims  bigint NOT NULL,
    new_result       text,
    new_parks        bigint NOT NULL,
    new_due          bigint,
    erases           boolean NOT NULL,
    reason           text
);

CREATE TABLE chaos_events (
    number  bigint PRIMARY KEY DEFAULT nextval('chaos_numbers'),
    xid     bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    id      uuid NOT NULL,
    event   text NOT NULL,
    claim   bigint NOT NULL,
    detail  text
);

CREATE TABLE chaos_erased (
    id            uuid PRIMARY KEY,
    report_name   text,
    called_back   boolean NOT NULL,
    erased_at     text,
    outcome_kept  boolean NOT NULL
);

CREATE TABLE chaos_pauses (
    number  bigint PRIMARY KEY DEFAULT nextval('chaos_numbers'),
    xid     bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    origin  text NOT NULL,
    paused  boolean NOT NULL
);

CREATE TABLE chaos_audit (
    number   bigint PRIMARY KEY DEFAULT nextval('chaos_numbers'),
    xid      bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    action   text NOT NULL,
    filter   text NOT NULL,
    matched  bigint NOT NULL,
    changed  bigint NOT NULL,
    dry_run  boolean NOT NULL
);

CREATE TABLE chaos_deleted (
    number          bigint PRIMARY KEY DEFAULT nextval('chaos_numbers'),
    xid             bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    id              uuid NOT NULL,
    report_name     text,
    status          text NOT NULL,
    claim           bigint NOT NULL,
    owner           uuid,
    attempts        bigint NOT NULL,
    lost_claims     bigint NOT NULL,
    result_payload  text,
    parks           bigint NOT NULL,
    failure_reason  text,
    failure_detail  text,
    called_back     boolean NOT NULL,
    completed_at    text,
    created_at      text NOT NULL,
    ended           bigint,
    redelivering    boolean NOT NULL,
    handler         text
);

CREATE TABLE chaos_worked (
    number  bigint PRIMARY KEY DEFAULT nextval('chaos_numbers'),
    xid     bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    id      uuid NOT NULL,
    result  text,
    reason  text
);

CREATE TABLE chaos_work_attempts (
    request_id  uuid NOT NULL,
    number      bigint NOT NULL,
    claim       bigint NOT NULL,
    class       text NOT NULL,
    status      bigint
);

CREATE TABLE chaos_successes (
    request_id  uuid NOT NULL,
    number      bigint NOT NULL,
    claim       bigint NOT NULL,
    PRIMARY KEY (request_id, number, claim)
);

-- The place of each change among those of its transaction. These have no gap between them, and
-- there is one between two transactions, which stand in any order.
CREATE VIEW chaos_places AS
SELECT number, row_number() OVER (ORDER BY xid, number) + dense_rank() OVER (ORDER BY xid) AS place
FROM (
    SELECT number, xid FROM chaos_moves
    UNION ALL SELECT number, xid FROM chaos_events
    UNION ALL SELECT number, xid FROM chaos_deleted
    UNION ALL SELECT number, xid FROM chaos_pauses
    UNION ALL SELECT number, xid FROM chaos_audit
    UNION ALL SELECT number, xid FROM chaos_worked
) AS logged;

CREATE FUNCTION chaos_micros(at timestamptz) RETURNS bigint LANGUAGE sql STABLE
RETURN (extract(epoch FROM at) * 1000000)::bigint;

CREATE FUNCTION chaos_time(at timestamptz, fraction text) RETURNS text LANGUAGE sql STABLE
RETURN to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.' || fraction || '"Z"');

-- The name of a job, whose characters are plain. The server's own functions refuse a whole payload
-- in which some text has the character zero.
CREATE FUNCTION chaos_name(payload json) RETURNS text LANGUAGE sql IMMUTABLE
RETURN substring(payload::text FROM '"report_name"\s*:\s*"([^"]*)"');

CREATE FUNCTION chaos_result(result json) RETURNS text LANGUAGE sql IMMUTABLE
RETURN CASE WHEN octet_length(result::text) > 4096 THEN '"md5 ' || md5(result::text) || '"'
            ELSE result::text END;

-- The services' role may not write the tables above: the functions run as the auditor.

CREATE FUNCTION chaos_inserted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    INSERT INTO chaos_moves (redelivery, id, new_status, new_claim, new_owner, new_attempts,
        new_lost_claims, new_result, new_parks, new_due, erases, reason)
    VALUES (false, NEW.id, NEW.status, NEW.claim, NEW.owner, NEW.attempts,
        NEW.lost_claims, chaos_result(NEW.result_payload), NEW.parks, chaos_micros(NEW.due), false,
        NEW.failure_reason);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_inserted AFTER INSERT ON requests
    FOR EACH ROW EXECUTE FUNCTION chaos_inserted();

CREATE FUNCTION chaos_updated() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    INSERT INTO chaos_moves (redelivery, id, old_status, old_claim, old_owner, old_attempts,
        old_lost_claims, old_result, old_parks, old_due, new_status, new_claim, new_owner,
        new_attempts, new_lost_claims, new_result, new_parks, new_due, erases, reason)
    VALUES (false, NEW.id, OLD.status, OLD.claim, OLD.owner, OLD.attempts,
        OLD.lost_claims, chaos_result(OLD.result_payload), OLD.parks, chaos_micros(OLD.due),
        NEW.status, NEW.claim, NEW.owner, NEW.attempts,
        NEW.lost_claims, chaos_result(NEW.result_payload), NEW.parks, chaos_micros(NEW.due),
        OLD.erased_at IS DISTINCT FROM NEW.erased_at, NEW.failure_reason);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_updated AFTER UPDATE ON requests
    FOR EACH ROW EXECUTE FUNCTION chaos_updated();

CREATE FUNCTION chaos_erased() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    INSERT INTO chaos_erased VALUES (
        NEW.id, chaos_name(OLD.input_payload), OLD.callback_url IS NOT NULL,
        chaos_time(NEW.erased_at, 'MS'),
        (OLD.mode, OLD.status, OLD.claim, OLD.owner, OLD.attempts, OLD.lost_claims, OLD.parks,
         OLD.failure_reason, OLD.created_by, OLD.created_at, OLD.completed_at, OLD.ended)
        IS NOT DISTINCT FROM
        (NEW.mode, NEW.status, NEW.claim, NEW.owner, NEW.attempts, NEW.lost_claims, NEW.parks,
         NEW.failure_reason, NEW.created_by, NEW.created_at, NEW.completed_at, NEW.ended)
    ) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_erased AFTER UPDATE ON requests
    FOR EACH ROW WHEN (OLD.erased_at IS DISTINCT FROM NEW.erased_at)
    EXECUTE FUNCTION chaos_erased();

CREATE FUNCTION chaos_redelivery() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    of_request CONSTANT text := (
        SELECT chaos_result(result_payload) FROM requests WHERE id = coalesce(NEW.id, OLD.id));
    had text;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        had := of_request;
    END IF;
    INSERT INTO chaos_moves (redelivery, id, old_status, old_claim, old_owner, old_attempts,
        old_lost_claims, old_result, old_parks, old_due, new_status, new_claim, new_owner,
        new_attempts, new_lost_claims, new_result, new_parks, new_due, erases)
    VALUES (true, coalesce(NEW.id, OLD.id), OLD.status, OLD.claim, OLD.owner, OLD.attempts,
        OLD.lost_claims, had, OLD.parks, chaos_micros(OLD.due),
        NEW.status, coalesce(NEW.claim, OLD.claim),
        CASE TG_OP WHEN 'DELETE' THEN OLD.owner ELSE NEW.owner END,
        coalesce(NEW.attempts, OLD.attempts), coalesce(NEW.lost_claims, OLD.lost_claims),
        of_request, coalesce(NEW.parks, OLD.parks), chaos_micros(NEW.due), false);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_redelivery AFTER INSERT OR UPDATE OR DELETE ON redeliveries
    FOR EACH ROW EXECUTE FUNCTION chaos_redelivery();

CREATE FUNCTION chaos_paused() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    INSERT INTO chaos_pauses (origin, paused)
    VALUES (coalesce(NEW.origin, OLD.origin), TG_OP = 'INSERT');
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_paused AFTER INSERT OR DELETE ON pauses
    FOR EACH ROW EXECUTE FUNCTION chaos_paused();

CREATE FUNCTION chaos_audited() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    INSERT INTO chaos_audit (action, filter, matched, changed, dry_run)
    VALUES (NEW.action, NEW.filter::text, NEW.matched, NEW.changed, NEW.dry_run);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_audited AFTER INSERT ON audit
    FOR EACH ROW EXECUTE FUNCTION chaos_audited();

CREATE FUNCTION chaos_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    INSERT INTO chaos_events (id, event, claim, detail)
    VALUES (NEW.request_id, NEW.event, NEW.claim, NEW.detail);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_event AFTER INSERT ON events
    FOR EACH ROW EXECUTE FUNCTION chaos_event();

CREATE FUNCTION chaos_resend() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    INSERT INTO chaos_events (id, event, claim) VALUES (NEW.request_id, 'resent', NEW.claim);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_resend AFTER INSERT ON resends
    FOR EACH ROW EXECUTE FUNCTION chaos_resend();

CREATE FUNCTION chaos_deleted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    erased chaos_erased;
BEGIN
    SELECT * INTO erased FROM chaos_erased WHERE id = OLD.id;
    INSERT INTO chaos_deleted (id, report_name, status, claim, owner, attempts, lost_claims,
        result_payload, parks, failure_reason, failure_detail, called_back, completed_at,
        created_at, ended, redelivering, handler)
    VALUES (OLD.id, coalesce(chaos_name(OLD.input_payload), erased.report_name), OLD.status,
        OLD.claim, OLD.owner, OLD.attempts, OLD.lost_claims, chaos_result(OLD.result_payload),
        OLD.parks, OLD.failure_reason, OLD.failure_detail,
        OLD.callback_url IS NOT NULL OR coalesce(erased.called_back, false),
        chaos_time(OLD.completed_at, 'US'), chaos_time(OLD.created_at, 'US'),
        chaos_micros(OLD.ended), EXISTS (SELECT 1 FROM redeliveries WHERE id = OLD.id),
        OLD.handler);
    RETURN OLD;
END $$;
CREATE TRIGGER chaos_deleted BEFORE DELETE ON requests
    FOR EACH ROW EXECUTE FUNCTION chaos_deleted();

CREATE FUNCTION chaos_success() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    INSERT INTO chaos_successes VALUES (NEW.request_id, NEW.number, NEW.claim)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_success AFTER INSERT ON attempts
    FOR EACH ROW WHEN (NEW.class = 'success') EXECUTE FUNCTION chaos_success();

CREATE FUNCTION chaos_delivered() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    INSERT INTO chaos_successes VALUES (NEW.id, (NEW.delivered ->> 'number')::bigint,
        (NEW.delivered ->> 'claim')::bigint)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_delivered AFTER UPDATE ON requests
    FOR EACH ROW WHEN (NEW.delivered IS NOT NULL
        AND NEW.delivered::text IS DISTINCT FROM OLD.delivered::text)
    EXECUTE FUNCTION chaos_delivered();

CREATE FUNCTION chaos_worked() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    INSERT INTO chaos_worked (id, result) VALUES (NEW.id, NEW.result_payload::text);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_worked AFTER UPDATE ON requests
    FOR EACH ROW WHEN (NEW.handler IS NOT NULL AND NEW.result_payload IS NOT NULL
        AND OLD.result_payload::text IS DISTINCT FROM NEW.result_payload::text)
    EXECUTE FUNCTION chaos_worked();

CREATE FUNCTION chaos_work_failed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    INSERT INTO chaos_worked (id, reason) VALUES (NEW.id, NEW.failure_reason);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_work_failed AFTER UPDATE ON requests
    FOR EACH ROW WHEN (NEW.failure_reason IN ('work_failed', 'work_timed_out')
        AND OLD.failure_reason IS DISTINCT FROM NEW.failure_reason)
    EXECUTE FUNCTION chaos_work_failed();

CREATE FUNCTION chaos_work_attempt() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    INSERT INTO chaos_work_attempts
    VALUES (NEW.request_id, NEW.number, NEW.claim, NEW.class, NEW.status);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_work_attempt AFTER INSERT ON attempts
    FOR EACH ROW WHEN (NEW.stage = 'work') EXECUTE FUNCTION chaos_work_attempt();
