-- The user service's database, behind sql/outbox.sql.
CREATE TABLE users (
    id      text PRIMARY KEY,
    email   text,
    name    text NOT NULL,
    -- Grows with each change: how a consumer tells an older event.
    version bigint NOT NULL DEFAULT 1
);
