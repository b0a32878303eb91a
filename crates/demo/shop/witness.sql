-- The director's own notes, and nothing that a service needs: every status that an event came to. The outbox has only the
-- last one.
CREATE TABLE witness (
    number  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id      uuid NOT NULL,
    status  text NOT NULL,
    attempt integer NOT NULL
);

CREATE FUNCTION note_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.witness (id, status, attempt) VALUES (NEW.id, NEW.status, NEW.attempt);
    RETURN NULL;
END
$$;
CREATE TRIGGER witness_inserted AFTER INSERT ON headwater.outbox FOR EACH ROW EXECUTE FUNCTION note_status();
CREATE TRIGGER witness_updated AFTER UPDATE ON headwater.outbox FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION note_status();
