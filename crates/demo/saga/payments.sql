-- The payment service's database, behind sql/outbox.sql.
CREATE TABLE payment (
    order_id    text PRIMARY KEY,
    -- ASKED -> TAKEN -> REFUNDED; REFUSED; VOIDED: the order was given up before anything was taken
    state       text NOT NULL,
    returned_at timestamptz
);
