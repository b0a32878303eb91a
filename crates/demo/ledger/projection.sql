-- The projection's database: a view of all orders, made of events alone, and how far it has read.
CREATE TABLE order_view (
    order_id    text PRIMARY KEY,
    version     integer NOT NULL,
    status      text NOT NULL,
    total_cents bigint NOT NULL,
    -- The whole state, for the next event.
    state       jsonb NOT NULL
);

CREATE TABLE progress (
    partition   integer PRIMARY KEY,
    next_offset bigint NOT NULL,
    -- Another one after the view was thrown away: a process that still works on the old one has to end.
    made        uuid NOT NULL DEFAULT gen_random_uuid()
);
