-- The e-mail service's database.
CREATE TABLE seen (
    user_id text PRIMARY KEY,
    version bigint NOT NULL
);

CREATE TABLE mail (
    event_id text PRIMARY KEY,
    user_id  text NOT NULL,
    address  text NOT NULL,
    subject  text NOT NULL,
    body     text NOT NULL,
    at       timestamptz NOT NULL DEFAULT now(),
    -- Not before this; later each time the server says that it can't take it now.
    try_at   timestamptz NOT NULL DEFAULT now(),
    sent_at  timestamptz,
    -- What the server said that will never take it.
    refused  text
);
CREATE INDEX ON mail (try_at) WHERE sent_at IS NULL AND refused IS NULL;
