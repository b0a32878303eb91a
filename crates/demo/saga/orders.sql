-- The order service's database, behind sql/outbox.sql.
CREATE TABLE purchase (
    id        text PRIMARY KEY,
    sku       text NOT NULL,
    quantity  integer NOT NULL CHECK (quantity > 0),
    -- What the last step looks at, when everything is reserved and paid.
    deliverable boolean NOT NULL,
    -- PENDING -> CONFIRMED, or PENDING -> CANCELLING -> CANCELLED: it waits there until the steps are undone.
    state     text NOT NULL DEFAULT 'PENDING',
    reason    text,
    -- How long the customer waits; NULL: as long as the service is told to wait.
    patience_ms double precision,
    placed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON purchase (placed_at) WHERE state = 'PENDING';

-- What a customer who asks is told of an order. A line is only added: nothing but the inbox keeps an event that comes again
-- from being here twice.
CREATE TABLE timeline (
    event_id text NOT NULL,
    order_id text NOT NULL,
    kind     text NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
