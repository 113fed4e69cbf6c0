-- Roles of a vaeseg database on PostgreSQL, for its owner to run as often as wanted:
--
--     vaeseg-batch db roles | psql postgresql://owner@host/name
--
-- vaeseg_reader  sees the views, and can change nothing
-- vaeseg_writer  what scans and submissions need; adds events, and can neither change nor delete one
--
-- Neither has a password: \password vaeseg_writer sets one, or pg_hba.conf says who may be whom. The schema of the
-- database stays the owner's: after an upgrade of vaeseg the owner runs `vaeseg-batch db upgrade`, which runs this file
-- again where it was run before, so that new tables and views are granted too.
-- Nobody but these, and the owner, may make tables in the schema or temporary ones in the database.

DO $$
DECLARE
    place text := quote_ident(current_schema());
    thing text;
    it record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'vaeseg_reader') THEN
        CREATE ROLE vaeseg_reader LOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'vaeseg_writer') THEN
        CREATE ROLE vaeseg_writer LOGIN;
    END IF;
    IF NOT pg_has_role('vaeseg_writer', 'vaeseg_reader', 'MEMBER') THEN
        GRANT vaeseg_reader TO vaeseg_writer;  -- it sees the views too, and its questions are asked as the reader
    END IF;

    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('REVOKE CREATE ON SCHEMA %s FROM PUBLIC, vaeseg_reader, vaeseg_writer', place);
    EXECUTE format('GRANT USAGE ON SCHEMA %s TO vaeseg_reader, vaeseg_writer', place);
    FOR it IN SELECT relname AS name, relkind AS kind FROM pg_class
              WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'v', 'S')
                    AND pg_has_role(relowner, 'USAGE')
    LOOP
        thing := format('%s.%I', place, it.name);
        IF it.kind = 'S' THEN
            EXECUTE format('GRANT USAGE ON SEQUENCE %s TO vaeseg_writer', thing);
            CONTINUE;
        END IF;
        EXECUTE format('REVOKE ALL ON %s FROM vaeseg_reader, vaeseg_writer', thing);
        IF it.kind = 'v' THEN
            EXECUTE format('GRANT SELECT ON %s TO vaeseg_reader', thing);
        ELSIF it.name = 'alembic_version' THEN
            EXECUTE format('GRANT SELECT ON %s TO vaeseg_writer', thing);
        ELSIF it.name = 'events' THEN
            EXECUTE format('GRANT SELECT, INSERT ON %s TO vaeseg_writer', thing);
        ELSE
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO vaeseg_writer', thing);
        END IF;
    END LOOP;
END
$$;
