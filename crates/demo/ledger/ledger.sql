-- The order service's database: nothing but events, and snapshots that may be thrown away.
CREATE TABLE order_event (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id      text NOT NULL,
    -- 1, 2, 3 … of each order. Two that write the same number: one of them has to look again.
    version       integer NOT NULL CHECK (version > 0),
    type          text NOT NULL,
    payload       jsonb NOT NULL,
    at            timestamptz NOT NULL DEFAULT now(),
    -- The table is the outbox as well: what is stored is what is told.
    aggregatetype text NOT NULL DEFAULT 'order' CHECK (aggregatetype = 'order'),
    UNIQUE (order_id, version)
);

CREATE FUNCTION what_happened_happened() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are only added';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON order_event
    FOR EACH STATEMENT EXECUTE FUNCTION what_happened_happened();

-- The state of an order at a version, so that a long history need not be read each time.
CREATE TABLE order_snapshot (
    order_id text PRIMARY KEY,
    version  integer NOT NULL,
    state    jsonb NOT NULL
);

CREATE PUBLICATION ledger FOR TABLE order_event WITH (publish = 'insert');
