-- Search of tool calls by what they say, and by what is rare among them.
--
-- An inverted index over payloads would cost each insert a dozen random pages; these tables cost it nothing. A worker sums up
-- runs of about a thousand calls after the fact: one row with a filter that says which words, keys, tools and outcomes the run
-- cannot hold. A search reads a few bytes of each filter in its window, and then the rows of the runs that are left.

CREATE TABLE call_blocks (
  tenant_id     uuid NOT NULL,
  -- Both inclusive. A block begins where the one before it ended: there is no call between two blocks.
  first_call_id uuid NOT NULL,
  last_call_id  uuid NOT NULL CHECK (last_call_id >= first_call_id),
  -- Null where nobody has counted: more than a block should hold, and to be divided.
  calls         integer,
  -- See tollgate_domain::search::filter. Empty: the block may hold anything.
  filter        bytea NOT NULL,
  built_at      timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, first_call_id)
);
CREATE INDEX call_blocks_to_divide ON call_blocks (tenant_id, first_call_id) WHERE calls IS NULL;
-- Not compressed (random bits do not shrink), so that one byte of a filter is one slice of it and not the whole.
ALTER TABLE call_blocks ALTER COLUMN filter SET STORAGE EXTERNAL;

-- Calls of which something was written, or taken away, when a block may already have summed them up. Until their block is
-- built anew it says nothing. A note is never merged with another: whoever builds a block removes the notes that it has seen,
-- and no writer ever waits for it.
CREATE TABLE late_calls (
  tenant_id uuid NOT NULL,
  call_id   uuid NOT NULL,
  note_id   uuid NOT NULL DEFAULT gen_random_uuid(),
  noted_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, call_id, note_id)
);

-- The rule stands here and not in the writers, so that it holds for every one of them: a block is built of calls that are
-- four minutes old (crates/store/src/search/build.rs), and whoever writes of a call that is older than one minute
-- leaves a note. The three minutes between are more than a transaction can take to become visible.
CREATE FUNCTION tollgate_note_late_call() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  tenant uuid;
  call uuid;
BEGIN
  IF TG_OP = 'INSERT' THEN
    tenant := NEW.tenant_id; call := NEW.call_id;
  ELSE
    tenant := OLD.tenant_id; call := OLD.call_id;
  END IF;
  INSERT INTO late_calls (tenant_id, call_id) VALUES (tenant, call);
  RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION tollgate_note_late_call() FROM PUBLIC;

-- This condition is all that an insert pays (about a microsecond). It is tollgate_uuid_floor(now() - interval '1 minute') without
-- numeric arithmetic, which costs three times as much; the milliseconds have eleven hexadecimal digits until the year 2527.
-- A payload comes in the statement of its event and needs no trigger of its own.
CREATE TRIGGER late_call AFTER INSERT ON tool_call_events FOR EACH ROW
  WHEN (NEW.call_id < ('0' || to_hex((date_part('epoch', now()) * 1000)::bigint - 60000) || '00000000000000000000')::uuid)
  EXECUTE FUNCTION tollgate_note_late_call();
-- What was erased shall not be guessed from a filter.
CREATE TRIGGER erased_payload AFTER UPDATE OR DELETE ON tool_call_payloads FOR EACH ROW
  EXECUTE FUNCTION tollgate_note_late_call();

GRANT SELECT, INSERT, DELETE ON call_blocks TO tollgate_app;
GRANT SELECT, DELETE ON late_calls TO tollgate_app;
-- Where there is work: not what the filters hold.
GRANT SELECT (tenant_id, first_call_id, last_call_id, calls) ON call_blocks TO tollgate_control;
GRANT SELECT ON late_calls TO tollgate_control;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['call_blocks', 'late_calls'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY one_tenant ON %I TO tollgate_app USING (tenant_id = (SELECT current_setting(''app.tenant_id'')::uuid))', t);
    EXECUTE format('CREATE POLICY control_reads ON %I FOR SELECT TO tollgate_control USING (true)', t);
  END LOOP;
  -- The trigger's function runs as the owner, to whom forced row-level security applies as well unless it is a superuser.
  EXECUTE format('CREATE POLICY owner_notes ON late_calls TO %I USING (true)', CURRENT_USER);
END $$;
