-- What `headwater apply` keeps in the target database. It makes this itself where its role may create a schema.
CREATE SCHEMA IF NOT EXISTS headwater;

-- How far each partition is applied, and which instance may apply it. Updated with every batch.
CREATE TABLE IF NOT EXISTS headwater.apply_offset (
  consumer    text NOT NULL,
  topic       text NOT NULL,
  partition   integer NOT NULL,
  next_offset bigint NOT NULL,
  owner       text NOT NULL,
  -- The newest position of the source seen in the partition, and the time of its commit.
  newest_lsn    pg_lsn NOT NULL DEFAULT '0/0',
  newest_micros bigint NOT NULL DEFAULT 0,
  -- That of the last record that had one: what comes behind it without one stands behind it.
  last_lsn      pg_lsn NOT NULL DEFAULT '0/0',
  last_ordinal  bigint NOT NULL DEFAULT 0,
  updated_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (consumer, topic, partition)
) WITH (fillfactor = 50);

-- Up to which position of the source a table was emptied (TRUNCATE).
CREATE TABLE IF NOT EXISTS headwater.apply_table (
  target            text PRIMARY KEY,
  truncated_lsn     pg_lsn NOT NULL DEFAULT '0/0',
  truncated_ordinal bigint NOT NULL DEFAULT 0
);

-- Keys that were deleted, and where: so that an older record does not bring them back.
CREATE TABLE IF NOT EXISTS headwater.apply_deleted (
  target     text NOT NULL,
  key        text NOT NULL,
  lsn        pg_lsn NOT NULL,
  ordinal    bigint NOT NULL,
  deleted_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (target, key)
);
CREATE INDEX IF NOT EXISTS apply_deleted_at ON headwater.apply_deleted (deleted_at);

-- Outbox events that were handled, and what became of them.
CREATE TABLE IF NOT EXISTS headwater.inbox (
  consumer   text NOT NULL,
  event_id   text NOT NULL,
  event_type text NOT NULL,
  status     text NOT NULL CHECK (status IN ('SUCCESS', 'FAILED')),
  reason     text,
  attempt    integer NOT NULL,
  topic      text NOT NULL,
  partition  integer NOT NULL,
  "offset"   bigint NOT NULL,
  handled_at timestamptz NOT NULL DEFAULT now(),
  unanswered boolean NOT NULL,
  PRIMARY KEY (consumer, event_id)
);
CREATE INDEX IF NOT EXISTS inbox_unanswered ON headwater.inbox (consumer, handled_at) WHERE unanswered;
CREATE INDEX IF NOT EXISTS inbox_handled_at ON headwater.inbox (handled_at);
