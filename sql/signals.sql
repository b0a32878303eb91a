-- A table of signals: an inserted row is a command to Headwater (setting `signals.table`). Optional. Run it as the owner
-- of the publication, and put your publication's name in the place of `shop`. May be run again at any time.
--
-- Names are free, the order of the columns is not: id, verb, data. It is Debezium's table, so one that is there goes on.
CREATE TABLE IF NOT EXISTS public.debezium_signal (
    id   varchar(42) PRIMARY KEY,
    type varchar(32) NOT NULL,
    data varchar(2048)
);

-- Commands are read from the stream, so the table has to be published. Headwater says at its start if it isn't.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_publication_tables
                    WHERE pubname = 'shop' AND schemaname = 'public' AND tablename = 'debezium_signal') THEN
        ALTER PUBLICATION shop ADD TABLE public.debezium_signal;
    END IF;
END
$$;

-- Whoever may insert here may have any published table copied again. Headwater itself needs no right to it.
REVOKE ALL ON public.debezium_signal FROM PUBLIC;
-- GRANT INSERT ON public.debezium_signal TO whoever_may;

-- Rows may be deleted as soon as they are inserted:
-- INSERT INTO public.debezium_signal VALUES
--     (gen_random_uuid(), 'execute-snapshot', '{"type": "incremental", "data-collections": ["public\\.inventory"]}');
