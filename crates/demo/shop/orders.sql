-- The order service's database: its own copy of the inventory, and the orders that it takes by it.
CREATE TABLE inventory_copy (
    sku      text PRIMARY KEY,
    name     text NOT NULL,
    quantity integer NOT NULL,
    version  bigint NOT NULL
);

CREATE TABLE purchase (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku      text NOT NULL,
    quantity integer NOT NULL,
    accepted boolean NOT NULL,
    at       timestamptz NOT NULL DEFAULT now()
);

-- The switch of the demo: articles that can't be applied, '*' for all.
CREATE TABLE trouble (sku text PRIMARY KEY);

-- `headwater apply` runs this for each event InventoryChanged, in the transaction that moves its offset. RAISE answers
-- FAILED with these words; a return answers SUCCESS. An older event than the row's changes nothing: it may come again.
CREATE FUNCTION inventory_changed(event jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM trouble WHERE sku IN ('*', event->>'sku')) THEN
        RAISE EXCEPTION 'the order service was told to fail';
    END IF;
    INSERT INTO inventory_copy AS copy
    VALUES (event->>'sku', event->>'name', (event->>'quantity')::integer, (event->>'version')::bigint)
    ON CONFLICT (sku) DO UPDATE
        SET name = excluded.name, quantity = excluded.quantity, version = excluded.version
        WHERE copy.version < excluded.version;
END
$$;
