-- The rights that `headwater run` needs, and no others. Run it as a superuser, in the database that is to be followed,
-- after install.sql. May be run again at any time. The password is yours to set:  \password headwater

-- LOGIN and REPLICATION: to open a replication connection, create the slot and read it. REPLICATION reads the whole
-- WAL of the server, whatever tables are published: guard this role as you guard a base backup.
-- (Managed servers name it otherwise: GRANT rds_replication TO headwater;  ALTER USER headwater WITH REPLICATION; ...)
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'headwater') THEN
        CREATE ROLE headwater LOGIN REPLICATION;
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO headwater', current_database());
END
$$;

-- USAGE: names in the schema can be resolved. The columns, keys and types of the tables are read from the catalog,
-- which is open to everybody.
GRANT USAGE ON SCHEMA public TO headwater;

-- SELECT: streaming works without it, since rows come from WAL. It is for reading the rows that were there before the
-- slot was (snapshots), and for tables with unchanged_toast = "reselect", whose rows are read back. A table with row-level security needs BYPASSRLS as well, or its hidden rows are missing then.
GRANT SELECT ON public.inventory, public.outbox TO headwater;

-- Optional, and worth it: while a slot is being created, and in `headwater check`, the sessions that block it are
-- named. Without this right only their pids are known, not what they do.
GRANT pg_read_all_stats TO headwater;

-- Not needed: superuser, ownership of tables, CREATE on the database. `headwater init` would need the last two to
-- create the publication; install.sql has done that.
