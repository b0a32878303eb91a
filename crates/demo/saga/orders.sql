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
    placed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON purchase (placed_at) WHERE state = 'PENDING';
