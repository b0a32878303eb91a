-- The product service's database, behind sql/outbox.sql.
CREATE TABLE inventory (
    sku      text PRIMARY KEY,
    name     text NOT NULL,
    quantity integer NOT NULL CHECK (quantity >= 0),
    -- Grows with each change, so that a copy can tell the newer of two events.
    version  bigint NOT NULL DEFAULT 1
);

-- While an event fails, later ones of the same article wait as BLOCKED.
SELECT headwater.outbox_block_aggregates(true);
