-- What the life of an outbox row costs in WAL: psql -X -f outbox_cost.sql URL, in a database with sql/outbox.sql.
-- The events have 300 bytes of payload and come 100 to a transaction; statuses are written in batches of 500, as
-- Headwater does. A checkpoint comes first, so the first touch of a page is in the figures as a full page.
\set QUIET on
\pset footer off
\set ON_ERROR_STOP on
TRUNCATE headwater.outbox;
SET synchronous_commit = off;
CREATE TEMP TABLE cost (step text, events bigint, wal numeric);
CREATE PROCEDURE pg_temp.put(events integer) LANGUAGE plpgsql AS $$
BEGIN
  FOR batch IN 1 .. events / 100 LOOP
    INSERT INTO headwater.outbox (aggregatetype, aggregateid, type, payload)
    SELECT 'order', 'o-' || n, 'OrderPlaced', jsonb_build_object('n', n, 'text', repeat(md5(n::text), 8))
    FROM generate_series(1, 100) n;
    COMMIT;
  END LOOP;
END $$;

CREATE PROCEDURE pg_temp.mark(from_status text, to_status text) LANGUAGE plpgsql AS $$
DECLARE ids uuid[];
BEGIN
  LOOP
    SELECT array_agg(id) INTO ids FROM (SELECT id FROM headwater.outbox WHERE status = from_status ORDER BY txid, lsn LIMIT 500) x;
    EXIT WHEN ids IS NULL;
    IF to_status = 'SENT' THEN
      UPDATE headwater.outbox o SET status = 'SENT', sent_at = now()
      FROM unnest(ids::text[], array_fill(1, ARRAY[cardinality(ids)])) AS e (id, attempt)
      WHERE o.id = e.id::uuid AND o.attempt = e.attempt AND o.status = 'NEW'
        AND o.created_at >= now() - interval '1 hour' AND o.created_at <= now() + interval '1 hour';
    ELSE
      UPDATE headwater.outbox SET status = 'PROCESSED', processed_at = now(), processed_by = ARRAY['order-service']
      WHERE id = ANY (ids);
    END IF;
    COMMIT;
  END LOOP;
END $$;

CREATE PROCEDURE pg_temp.measure(fill integer, events integer) LANGUAGE plpgsql AS $$
DECLARE
  name text; before pg_lsn; step text;
BEGIN
  TRUNCATE headwater.outbox;
  FOR name IN SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'headwater.outbox'::regclass LOOP
    EXECUTE format('ALTER TABLE %s SET (fillfactor = %s)', name, fill);
  END LOOP;
  COMMIT;
  CHECKPOINT;
  FOREACH step IN ARRAY ARRAY['insert', 'SENT', 'PROCESSED'] LOOP
    before := pg_current_wal_insert_lsn();
    IF step = 'insert' THEN CALL pg_temp.put(events);
    ELSIF step = 'SENT' THEN CALL pg_temp.mark('NEW', 'SENT');
    ELSE CALL pg_temp.mark('SENT', 'PROCESSED'); END IF;
    INSERT INTO cost VALUES ('fillfactor ' || fill || ', ' || step, events, pg_current_wal_insert_lsn() - before);
    COMMIT;
  END LOOP;
END $$;
SELECT pg_stat_reset() \gset
CALL pg_temp.measure(50, 20000);
SELECT pg_sleep(1.5) \gset
SELECT sum(n_tup_upd) AS updated, sum(n_tup_hot_upd) AS hot,
       pg_size_pretty(pg_total_relation_size('headwater.outbox_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD'))) AS size
FROM pg_stat_user_tables WHERE schemaname = 'headwater' AND relname LIKE 'outbox\_%' \gset f50_
SELECT pg_stat_reset() \gset
CALL pg_temp.measure(100, 20000);
SELECT pg_sleep(1.5) \gset
SELECT sum(n_tup_upd) AS updated, sum(n_tup_hot_upd) AS hot,
       pg_size_pretty(pg_total_relation_size('headwater.outbox_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD'))) AS size
FROM pg_stat_user_tables WHERE schemaname = 'headwater' AND relname LIKE 'outbox\_%' \gset f100_
SELECT step, events, round(wal / events) AS "WAL bytes per event" FROM cost;
SELECT 'fillfactor 50' AS pages, :f50_updated AS updates, :f50_hot AS "of them HOT", :'f50_size' AS size
UNION ALL SELECT 'fillfactor 100', :f100_updated, :f100_hot, :'f100_size';
