-- The director's own notes in the order service's database: what was written into the copy.
CREATE TABLE applied (sku text NOT NULL, version bigint NOT NULL);

CREATE FUNCTION note_applied() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.applied VALUES (NEW.sku, NEW.version);
    RETURN NULL;
END
$$;
CREATE TRIGGER witness AFTER INSERT OR UPDATE ON inventory_copy FOR EACH ROW EXECUTE FUNCTION note_applied();
