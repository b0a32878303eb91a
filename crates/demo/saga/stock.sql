-- The stock service's database, behind sql/outbox.sql.
CREATE TABLE stock (
    sku      text PRIMARY KEY,
    on_hand  integer NOT NULL CHECK (on_hand >= 0),
    -- The highest token of a lease that wrote this row (lease.rs).
    fence    bigint NOT NULL DEFAULT 0
);

CREATE TABLE reservation (
    order_id    text PRIMARY KEY,
    sku         text,
    quantity    integer NOT NULL,
    -- RESERVED -> SOLD or RELEASED; REJECTED; and RELEASED from the start when the order was given up before it came
    state       text NOT NULL,
    released_at timestamptz
);

-- For lease.rs.
CREATE TABLE lease (
    name       text PRIMARY KEY,
    holder     text NOT NULL,
    token      bigint NOT NULL,
    expires_at timestamptz NOT NULL
);
