-- The rights on headwater.outbox (sql/outbox.sql), after grants.sql. May be run again at any time.

GRANT USAGE ON SCHEMA headwater TO headwater;

-- SENT, PROCESSED and the rest: what belongs to Headwater, and nothing that a service wrote.
GRANT SELECT, UPDATE (status, attempt, first_attempt, sent_at, processed_at, processed_by, failed_at, next_attempt_at, failed_by, reason, notified_at)
    ON headwater.outbox TO headwater;

-- An event is sent again by writing its row again: without these two, attempts, replay and BLOCKED rows stay where they are.
GRANT INSERT, DELETE ON headwater.outbox TO headwater;

-- What Headwater remembers.
GRANT SELECT, INSERT, UPDATE ON headwater.outbox_relay, headwater.outbox_feedback TO headwater;

-- Services write events: GRANT USAGE ON SCHEMA headwater TO shop; GRANT INSERT, SELECT ON headwater.outbox TO shop;
-- (SELECT is for `RETURNING id`, and for the trigger of outbox_block_aggregates.)
GRANT EXECUTE ON FUNCTION headwater.outbox_make_partitions(integer), headwater.outbox_drop_partitions(date, boolean) TO headwater;
