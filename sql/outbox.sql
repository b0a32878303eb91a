-- An outbox whose rows say what became of their events: headwater.outbox, its publication `headwater_outbox`, and the
-- functions that services and Headwater call. Run it as the owner-to-be, once or again, in the database of the service.
--
--   postgres.publication = ["shop", "headwater_outbox"]
--   [[outbox]]
--   table = "headwater.outbox"
--   status = true
--
-- The life of a row:  NEW -> SENT -> PROCESSED,  SENT -> FAILED -> NEW (the next attempt) -> SENT ...,  -> DEAD
-- CANCELLED is what a person said; BLOCKED waits for an earlier event of its aggregate (outbox_block_aggregates).

CREATE SCHEMA IF NOT EXISTS headwater;

CREATE TABLE IF NOT EXISTS headwater.outbox (
    id              uuid        NOT NULL DEFAULT gen_random_uuid(),
    created_at      timestamptz NOT NULL DEFAULT now(),
    aggregatetype   text        NOT NULL,
    aggregateid     text        NOT NULL,
    type            text        NOT NULL,
    payload         jsonb,
    -- A flat object; each member becomes a header of the record.
    headers         jsonb,

    -- What follows belongs to Headwater; services leave it at its defaults.
    status          text        NOT NULL DEFAULT 'NEW',
    attempt         integer     NOT NULL DEFAULT 1,
    -- Attempts before this one are not counted any more: a person has sent the event again.
    first_attempt   integer     NOT NULL DEFAULT 1,
    -- Who wrote the row and where: how the rows are found that a crash left behind, without an index on the status.
    txid            xid8        NOT NULL DEFAULT pg_current_xact_id(),
    lsn             pg_lsn      DEFAULT pg_current_wal_insert_lsn(),
    -- Of an event that was sent again: where it was written first.
    origin_lsn      pg_lsn,
    sent_at         timestamptz,
    processed_at    timestamptz,
    -- The consumers that have answered SUCCESS.
    processed_by    text[],
    -- NULL as long as all goes well, and so are the two indexes below: an update of the status touches no index.
    failed_at       timestamptz,
    next_attempt_at timestamptz,
    failed_by       text,
    reason          text,
    -- When people were told of a DEAD row.
    notified_at     timestamptz,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);

-- Neither `status` nor anything else that changes while all goes well is in an index or in an index's condition, so that
-- these updates are HOT: they write one row version and no index entry.
CREATE INDEX IF NOT EXISTS outbox_txid ON headwater.outbox (txid);
CREATE INDEX IF NOT EXISTS outbox_aggregate ON headwater.outbox (aggregateid);
CREATE INDEX IF NOT EXISTS outbox_failing ON headwater.outbox (aggregatetype, aggregateid) WHERE failed_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS outbox_next_attempt ON headwater.outbox (next_attempt_at) WHERE next_attempt_at IS NOT NULL;

-- Rows for which no day has been made; inserts never fail for want of a partition.
CREATE TABLE IF NOT EXISTS headwater.outbox_default PARTITION OF headwater.outbox DEFAULT WITH (fillfactor = 50);

-- What Headwater remembers of this database: since when it keeps statuses, and how far it has looked for rows that a
-- crash left behind.
CREATE TABLE IF NOT EXISTS headwater.outbox_relay (
    slot          text   NOT NULL,
    outbox        text   NOT NULL,
    -- Rows written before this position may have been sent or not; nobody claims either.
    since         pg_lsn NOT NULL,
    -- Rows of older transactions are none of those that a crash left behind.
    looked_from   xid8   NOT NULL,
    -- No row of an older transaction is NEW or SENT.
    open_from     xid8   NOT NULL DEFAULT '0',
    PRIMARY KEY (slot, outbox)
);

ALTER TABLE headwater.outbox_relay ADD COLUMN IF NOT EXISTS open_from xid8 NOT NULL DEFAULT '0';

-- How far the answers of consumers have been read; written with what they change.
CREATE TABLE IF NOT EXISTS headwater.outbox_feedback (
    topic       text    NOT NULL,
    partition   integer NOT NULL,
    next_offset bigint  NOT NULL,
    PRIMARY KEY (topic, partition)
);

-- Makes the partitions of today and the days ahead. Half of each page is left free for the new versions of its rows.
-- A table that is made first and attached then stops no writer; where somebody holds the default partition for long, it
-- gives up, and is called again.
CREATE OR REPLACE FUNCTION headwater.outbox_make_partitions(days_ahead integer DEFAULT 3) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET timezone = 'UTC' SET lock_timeout = '2s' AS $$
DECLARE
    day  date;
    name text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('headwater.outbox_make_partitions'));
    FOR day IN SELECT current_date + ahead FROM generate_series(0, days_ahead) AS ahead LOOP
        name := 'outbox_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('headwater.' || name) IS NOT NULL;
        -- A day whose rows are in the default partition already stays there.
        CONTINUE WHEN EXISTS (SELECT FROM headwater.outbox_default
                               WHERE created_at >= day::timestamptz AND created_at < (day + 1)::timestamptz);
        EXECUTE format('CREATE TABLE headwater.%I (LIKE headwater.outbox INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY) WITH (fillfactor = 50)',
                       name);
        EXECUTE format('ALTER TABLE headwater.outbox ATTACH PARTITION headwater.%I FOR VALUES FROM (%L) TO (%L)',
                       name, day::timestamptz, (day + 1)::timestamptz);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
SELECT headwater.outbox_make_partitions();

-- Drops the partitions of days before `before` in which every event is at its end, and takes such rows out of the default
-- partition. Without feedback SENT is the end. Dropping locks the outbox for a moment, so all looking comes before it.
CREATE OR REPLACE FUNCTION headwater.outbox_drop_partitions(before date, sent_is_the_end boolean DEFAULT false)
    RETURNS SETOF text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET timezone = 'UTC' SET lock_timeout = '2s' AS $$
DECLARE
    name  text;
    used  boolean;
    ended text[] := '{}';
    taken bigint;
BEGIN
    DELETE FROM headwater.outbox_default
     WHERE created_at < before::timestamptz
       AND (status IN ('PROCESSED', 'CANCELLED') OR status = 'SENT' AND sent_is_the_end);
    GET DIAGNOSTICS taken = ROW_COUNT;
    IF taken > 0 THEN
        RETURN NEXT taken || ' rows of headwater.outbox_default';
    END IF;
    FOR name IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                 WHERE i.inhparent = 'headwater.outbox'::regclass AND c.relname ~ '^outbox_[0-9]{8}$'
                   AND to_date(right(c.relname, 8), 'YYYYMMDD') < before ORDER BY 1 LOOP
        EXECUTE format('LOCK TABLE headwater.%I IN SHARE MODE', name);
        EXECUTE format('SELECT EXISTS (SELECT FROM headwater.%I WHERE status NOT IN (''PROCESSED'', ''CANCELLED'') AND NOT (status = ''SENT'' AND $1))',
                       name) INTO used USING sent_is_the_end;
        IF NOT used THEN
            ended := ended || name;
        END IF;
    END LOOP;
    FOREACH name IN ARRAY ended LOOP
        EXECUTE format('DROP TABLE headwater.%I', name);
        RETURN NEXT 'headwater.' || name;
    END LOOP;
END
$$;

-- They are run as their owner: nobody else's business.
REVOKE EXECUTE ON FUNCTION headwater.outbox_make_partitions(integer), headwater.outbox_drop_partitions(date, boolean) FROM PUBLIC;

-- Writes an event, in the transaction of the state that it speaks of.
CREATE OR REPLACE FUNCTION headwater.outbox_put(aggregate_type text, aggregate_id text, type text, payload jsonb,
                                                headers jsonb DEFAULT NULL) RETURNS uuid
    LANGUAGE sql AS $$
    INSERT INTO headwater.outbox (aggregatetype, aggregateid, type, payload, headers)
    VALUES (aggregate_type, aggregate_id, type, payload, headers) RETURNING id
$$;

-- The same without a table: nothing is left behind, and so nothing says what became of it.
CREATE OR REPLACE FUNCTION headwater.outbox_emit(aggregate_type text, aggregate_id text, type text, payload jsonb,
                                                 headers jsonb DEFAULT NULL) RETURNS uuid
    LANGUAGE plpgsql AS $$
DECLARE
    id uuid := gen_random_uuid();
BEGIN
    PERFORM pg_logical_emit_message(true, 'outbox.' || aggregate_type, json_build_object(
        'id', id, 'aggregateid', aggregate_id, 'type', type, 'payload', payload,
        'headers', coalesce(headers, '{}'::jsonb))::text);
    RETURN id;
END
$$;

-- Keeps the order of each aggregate also while one of its events fails: what is written after the failure is known waits
-- as BLOCKED until that event is processed or cancelled. What is on its way already is not called back.
CREATE OR REPLACE FUNCTION headwater.outbox_wait_for_aggregate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM headwater.outbox o WHERE o.aggregatetype = NEW.aggregatetype
                  AND o.aggregateid = NEW.aggregateid AND o.failed_at IS NOT NULL) THEN
        NEW.status := 'BLOCKED';
        NEW.failed_at := now();
    END IF;
    RETURN NEW;
END
$$;
CREATE OR REPLACE FUNCTION headwater.outbox_block_aggregates(wanted boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DROP TRIGGER IF EXISTS wait_for_aggregate ON headwater.outbox;
    IF wanted THEN
        CREATE TRIGGER wait_for_aggregate BEFORE INSERT ON headwater.outbox
            FOR EACH ROW WHEN (NEW.status = 'NEW' AND NEW.attempt = 1 AND NEW.origin_lsn IS NULL)
            EXECUTE FUNCTION headwater.outbox_wait_for_aggregate();
    END IF;
END
$$;

-- Inserts only: what Headwater itself writes into these rows never reaches the stream. It has to exist before the slot
-- does, or before the first row that matters.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'headwater_outbox') THEN
        CREATE PUBLICATION headwater_outbox FOR TABLE headwater.outbox
            WITH (publish = 'insert', publish_via_partition_root = true);
    END IF;
END
$$;
