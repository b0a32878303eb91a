-- For the compose file only: sql/grants.sql makes the role without a password.
ALTER ROLE headwater PASSWORD 'headwater';
