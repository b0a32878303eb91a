-- Takes away what install.sql made. Stop headwater first.
--
-- The slot comes first: as long as it exists the server keeps WAL for it, until the disk is full.
-- Put the name of your slot here if it is another one (setting `postgres.slot`).
SELECT pg_drop_replication_slot(slot_name)
FROM pg_replication_slots
WHERE slot_name = 'headwater' AND database = current_database() AND NOT active;

DROP PUBLICATION IF EXISTS shop;

-- These hold your rows: only what the reference scenario made is dropped here.
DROP TABLE IF EXISTS public.outbox;
DROP TABLE IF EXISTS public.inventory;

-- The topics, the schemas in the registry and the checkpoint stay. Delete the checkpoint (topic `headwater.checkpoint`)
-- before a slot of the same name is created again, or `headwater run` refuses to start without its slot.
