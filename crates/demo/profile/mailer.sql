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
    sent_at  timestamptz
);
CREATE INDEX ON mail (at) WHERE sent_at IS NULL;
