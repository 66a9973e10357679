-- The audit trail becomes a log that can be proved: every row's hash is signed in the row's own commit, gathered per tenant
-- into numbered, chained and signed seals, and never moves again.
--
--  writer (or admin change) ── rows + audit_batches, one commit ──►  sealer  ──►  audit_seals, audit_entries, audit_nodes
--
-- `script_runs` becomes what `tool_calls` is, a view over append-only rows. Workers of the release before this one cannot
-- open script runs against this schema (they are refused, nothing is lost): it is taken in one step because no release with
-- the old shape has been published.

DO $$
DECLARE r text;
BEGIN
  -- tollgate_sealer gives rows their place in the log; tollgate_eraser may take payloads away, and nothing else.
  FOREACH r IN ARRAY ARRAY['tollgate_sealer', 'tollgate_eraser'] LOOP
    BEGIN
      EXECUTE format('CREATE ROLE %I NOLOGIN NOBYPASSRLS', r);
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END;
    BEGIN
      EXECUTE format('GRANT %I TO CURRENT_USER', r);
    EXCEPTION WHEN unique_violation THEN NULL;
    END;
  END LOOP;
END $$;

-- ---------------------------------------------------------------- what a row commits to

-- Each payload is committed to by SHA-256 over its salt and its bytes; the salt goes with the payload, so that a commitment
-- says nothing about a payload that was erased. `kept` is the commitment to what is stored where that is not the original:
--   form null: the original is stored; 1: a redacted copy is; 2: nothing is, the payload was larger than the tenant keeps.
ALTER TABLE tool_call_events
  ADD arguments_form smallint CHECK (arguments_form IN (1, 2)),
  ADD arguments_kept_sha256 bytea,
  ADD result_form smallint CHECK (result_form IN (1, 2)),
  ADD result_kept_sha256 bytea;
ALTER TABLE tool_call_payloads ADD salt bytea NOT NULL DEFAULT '';

-- Static text, once per tenant and not once per run: the catalogues that scripts ran against.
CREATE TABLE script_catalogs (
  tenant_id      uuid NOT NULL,
  catalog_sha256 bytea NOT NULL,
  -- Canonical JSON, zstd.
  body           bytea NOT NULL,
  PRIMARY KEY (tenant_id, catalog_sha256)
);
ALTER TABLE script_runs RENAME TO script_run_starts;
ALTER INDEX script_runs_by_request RENAME TO script_run_starts_by_request;
DO $$
DECLARE part text;
BEGIN
  FOR part IN SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'script_run_starts'::regclass LOOP
    EXECUTE format('ALTER TABLE %I RENAME TO %I', part, replace(part, 'script_runs_', 'script_run_starts_'));
  END LOOP;
END $$;

-- At most two: 1 the end as its worker wrote it, 2 a resolution by the sweeper, which speaks for itself. The end wins.
CREATE TABLE script_run_ends (
  tenant_id          uuid NOT NULL,
  script_run_id      uuid NOT NULL,
  kind               smallint NOT NULL CHECK (kind IN (1, 2)),
  state              text NOT NULL CHECK (state IN ('done', 'failed')),
  ticks              bigint,
  at                 timestamptz NOT NULL,
  result_sha256      bytea,
  result_form        smallint CHECK (result_form IN (1, 2)),
  result_kept_sha256 bytea,
  logs_sha256        bytea,
  logs_form          smallint CHECK (logs_form IN (1, 2)),
  logs_kept_sha256   bytea,
  error_sha256       bytea,
  error_form         smallint CHECK (error_form IN (1, 2)),
  error_kept_sha256  bytea,
  PRIMARY KEY (tenant_id, script_run_id, kind)
) PARTITION BY RANGE (script_run_id);

-- Texts of a run, zstd. part 0: the source; 1: the result; 2: the logs; 3: the error; 4: what the script saw of the call
-- with this sequence (0 for the other parts).
CREATE TABLE script_payloads (
  tenant_id     uuid NOT NULL,
  script_run_id uuid NOT NULL,
  part          smallint NOT NULL CHECK (part BETWEEN 0 AND 4),
  sequence      integer NOT NULL CHECK ((part = 4) = (sequence > 0)),
  size          integer NOT NULL,
  salt          bytea NOT NULL,
  body          bytea NOT NULL,
  PRIMARY KEY (tenant_id, script_run_id, part, sequence)
) PARTITION BY RANGE (script_run_id);

CREATE TABLE script_run_ends_default PARTITION OF script_run_ends DEFAULT;
CREATE TABLE script_payloads_default PARTITION OF script_payloads DEFAULT;

-- The partitions come before the rows: a default partition that holds rows of a month lets nobody make that month's.
-- As before, with the new tables. The search path of functions that run as their owner is pinned from here on.
CREATE FUNCTION tollgate_audit_parents() RETURNS text[] LANGUAGE sql IMMUTABLE SET search_path = public, pg_temp AS
$$ SELECT ARRAY['llm_requests', 'script_run_starts', 'script_run_ends', 'script_payloads', 'script_journal', 'tool_call_events',
                'tool_call_payloads'] $$;

CREATE OR REPLACE FUNCTION tollgate_ensure_partitions(at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  parent text;
  month timestamptz;
  part text;
BEGIN
  PERFORM pg_advisory_xact_lock(7420001);
  -- A new partition locks its parent for a moment. Behind a long read it would wait, and every insert behind it.
  PERFORM set_config('lock_timeout', '2s', true);
  FOREACH parent IN ARRAY tollgate_audit_parents() LOOP
    FOR step IN 0..2 LOOP
      month := (date_trunc('month', at AT TIME ZONE 'UTC') + make_interval(months => step)) AT TIME ZONE 'UTC';
      part := format('%s_p%s', parent, to_char(month AT TIME ZONE 'UTC', 'YYYYMM'));
      IF to_regclass(format('%I', part)) IS NULL THEN
        EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', part, parent,
                       tollgate_uuid_floor(month), tollgate_uuid_floor(month + interval '1 month'));
      END IF;
    END LOOP;
  END LOOP;
END $$;
ALTER FUNCTION tollgate_touch(uuid) SET search_path = public, pg_temp;
-- The partitions of the new tables for the months that exist already.
DO $$
DECLARE month text;
BEGIN
  FOR month IN SELECT DISTINCT substring(inhrelid::regclass::text FROM '_p([0-9]{6})$') FROM pg_inherits
               WHERE inhparent = 'tool_call_events'::regclass AND inhrelid::regclass::text ~ '_p[0-9]{6}$' LOOP
    PERFORM tollgate_ensure_partitions(to_date(month, 'YYYYMM')::timestamp AT TIME ZONE 'UTC');
  END LOOP;
END $$;

-- Forced row-level security holds for the owner as well: what it does not see it would not move.
ALTER TABLE script_run_starts NO FORCE ROW LEVEL SECURITY;
ALTER TABLE script_journal NO FORCE ROW LEVEL SECURITY;

INSERT INTO script_catalogs (tenant_id, catalog_sha256, body)
SELECT DISTINCT ON (tenant_id, catalog_sha256) tenant_id, catalog_sha256, catalog FROM script_run_starts;

-- What stands in columns moves to its payload. Plain text becomes a zstd frame of one raw block: magic, a header that says
-- "one segment, size in four bytes", the size, the block's header (last, raw, size), the bytes. Sources end at 64 KiB.
INSERT INTO script_payloads (tenant_id, script_run_id, part, sequence, size, salt, body)
SELECT tenant_id, script_run_id, 0, 0, n, '', '\x28b52ffda0'::bytea
  || set_byte(set_byte(set_byte('\x00000000'::bytea, 0, n & 255), 1, (n >> 8) & 255), 2, (n >> 16) & 255)
  || set_byte(set_byte(set_byte('\x000000'::bytea, 0, ((n << 3) | 1) & 255), 1, (n >> 5) & 255), 2, (n >> 13) & 255)
  || plain
FROM (SELECT tenant_id, script_run_id, convert_to(source, 'UTF8') AS plain, octet_length(source) AS n FROM script_run_starts) s;
INSERT INTO script_run_ends (tenant_id, script_run_id, kind, state, ticks, at)
SELECT tenant_id, script_run_id, CASE WHEN ticks IS NULL THEN 2 ELSE 1 END, state, ticks, closed_at
FROM script_run_starts WHERE closed_at IS NOT NULL;
INSERT INTO script_payloads (tenant_id, script_run_id, part, sequence, size, salt, body)
SELECT tenant_id, script_run_id, part, 0, octet_length(body), '', body FROM script_run_starts
CROSS JOIN LATERAL (VALUES (1, result), (2, logs), (3, error)) AS v(part, body) WHERE body IS NOT NULL;
INSERT INTO script_payloads (tenant_id, script_run_id, part, sequence, size, salt, body)
SELECT tenant_id, script_run_id, 4, sequence, octet_length(entry), '', entry FROM script_journal;

ALTER TABLE script_run_starts
  DROP COLUMN state, DROP COLUMN source, DROP COLUMN catalog, DROP COLUMN result, DROP COLUMN logs, DROP COLUMN error,
  DROP COLUMN ticks, DROP COLUMN closed_at,
  -- The ceilings under which it ran, as JSON text: a replay needs the same.
  ADD limits text NOT NULL DEFAULT '{}',
  ADD source_sha256 bytea,
  ADD source_form smallint CHECK (source_form IN (1, 2)),
  ADD source_kept_sha256 bytea;
ALTER TABLE script_journal
  DROP COLUMN entry,
  ADD entry_sha256 bytea,
  ADD entry_form smallint CHECK (entry_form IN (1, 2)),
  ADD entry_kept_sha256 bytea;

ALTER TABLE script_run_starts FORCE ROW LEVEL SECURITY;
ALTER TABLE script_journal FORCE ROW LEVEL SECURITY;

CREATE VIEW script_runs WITH (security_invoker = true) AS
SELECT s.tenant_id, s.script_run_id, s.llm_request_id, s.key_id, s.team_id, COALESCE(e.state, 'running') AS state,
       s.catalog_sha256, s.engine, s.limits, s.worker_id, s.opened_at, e.ticks, e.at AS closed_at, e.kind AS ended_by
FROM script_run_starts s
LEFT JOIN LATERAL (
  SELECT n.state, n.ticks, n.at, n.kind FROM script_run_ends n
  WHERE n.tenant_id = s.tenant_id AND n.script_run_id = s.script_run_id ORDER BY n.kind LIMIT 1) e ON true;

-- ---------------------------------------------------------------- the log

-- Rows that are durable and have no place in the log yet: one row per commit, of all tenants. `entries` names the rows and
-- their hashes; `root` is the Merkle root over those hashes, `previous` the root of the same writer's batch before, and the
-- signature covers all of it, so that a batch cannot be edited or dropped on its way into the log. Deleted by the sealer in
-- the commit that gives its rows their places.
CREATE TABLE audit_batches (
  writer_id uuid NOT NULL,
  sequence  bigint NOT NULL,
  -- Whatever depends on a row that it has seen commits under a larger one: the order of the log.
  xid       xid8 NOT NULL DEFAULT pg_current_xact_id(),
  at        timestamptz NOT NULL,
  previous  bytea NOT NULL,
  root      bytea NOT NULL,
  key_id    text NOT NULL,
  signature bytea NOT NULL,
  entries   bytea NOT NULL,
  PRIMARY KEY (writer_id, sequence)
);
-- Random bytes for the most part: not worth a try at compressing.
ALTER TABLE audit_batches ALTER entries SET STORAGE EXTERNAL;

-- How far each writer's chain has been sealed.
CREATE TABLE audit_writers (
  writer_id uuid PRIMARY KEY,
  sequence  bigint NOT NULL,
  root      bytea NOT NULL,
  sealed_at timestamptz NOT NULL
);

-- Public halves of the keys that have signed. What was signed stays provable after a key has gone.
CREATE TABLE audit_keys (
  key_id        text PRIMARY KEY,
  public_key    bytea NOT NULL,
  first_seen_at timestamptz NOT NULL
);

-- A tenant's log, seal by seal: entries `first` to `first + count - 1`, their Merkle root, the root of the tree over all of
-- the tenant's seals so far, the hash of the seal before, and the signature over it all.
CREATE TABLE audit_seals (
  tenant_id uuid NOT NULL,
  sequence  bigint NOT NULL CHECK (sequence > 0),
  first     bigint NOT NULL CHECK (first >= 0),
  count     integer NOT NULL CHECK (count > 0),
  root      bytea NOT NULL,
  tree      bytea NOT NULL,
  previous  bytea NOT NULL,
  sealed_at timestamptz NOT NULL,
  key_id    text NOT NULL,
  signature bytea NOT NULL,
  -- The smallest and the largest id in it.
  low       uuid NOT NULL,
  high      uuid NOT NULL,
  PRIMARY KEY (tenant_id, sequence)
);
-- A cursor is a position: which seal holds it. A call is looked for from the time of its rows on.
CREATE UNIQUE INDEX audit_seals_by_position ON audit_seals (tenant_id, first);
CREATE INDEX audit_seals_by_time ON audit_seals (tenant_id, sealed_at);

-- Which rows a seal holds, and their hashes, packed. Beside the seals, because it goes when its rows go and they stay.
CREATE TABLE audit_entries (
  tenant_id uuid NOT NULL,
  sequence  bigint NOT NULL,
  entries   bytea NOT NULL,
  PRIMARY KEY (tenant_id, sequence)
);
ALTER TABLE audit_entries ALTER entries SET STORAGE EXTERNAL;

-- Complete subtrees of the tree over a tenant's seals: about two rows a seal, from which every proof is made.
CREATE TABLE audit_nodes (
  tenant_id uuid NOT NULL,
  level     smallint NOT NULL,
  index     bigint NOT NULL,
  hash      bytea NOT NULL,
  PRIMARY KEY (tenant_id, level, index)
);

-- ---------------------------------------------------------------- what a tenant decides about its trail

CREATE TABLE audit_settings (
  tenant_id           uuid PRIMARY KEY REFERENCES tenants,
  durability          text NOT NULL DEFAULT 'strict' CHECK (durability IN ('strict', 'relaxed')),
  -- Larger arguments, results and script texts leave their hash alone; null keeps whatever the gateway lets through.
  payload_limit_bytes integer CHECK (payload_limit_bytes >= 0),
  -- See domain::redact.
  redaction           jsonb NOT NULL DEFAULT '{}',
  -- Null keeps the rows for ever. Whole months go, once their last day is this old.
  retention_days      integer CHECK (retention_days BETWEEN 1 AND 36500),
  -- While it stands nothing of the tenant is dropped or erased.
  legal_hold          boolean NOT NULL DEFAULT false,
  updated_at          timestamptz NOT NULL,
  version             integer NOT NULL DEFAULT 1
);

-- Payloads that were taken away on purpose, and by which erasure: what is missing without a line here has been lost.
CREATE TABLE audit_erasures (
  tenant_id  uuid NOT NULL,
  erasure_id uuid NOT NULL,
  at         timestamptz NOT NULL,
  by         text NOT NULL,
  reason     text NOT NULL,
  selection  jsonb NOT NULL,
  calls      bigint NOT NULL,
  runs       bigint NOT NULL,
  PRIMARY KEY (tenant_id, erasure_id)
);
CREATE TABLE audit_erased (
  tenant_id  uuid NOT NULL,
  -- A call or a script run.
  row_id     uuid NOT NULL,
  erasure_id uuid NOT NULL,
  PRIMARY KEY (tenant_id, row_id)
);

-- ---------------------------------------------------------------- nobody changes what has happened

CREATE FUNCTION tollgate_append_only() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  IF TG_OP = 'DELETE' AND current_user = 'tollgate_eraser' AND TG_ARGV[0] = 'payloads' THEN
    RETURN OLD;
  END IF;
  RAISE EXCEPTION 'the audit trail is append-only: % on %', TG_OP, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;
DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['llm_requests', 'script_run_starts', 'script_run_ends', 'script_journal', 'tool_call_events',
      'admin_events', 'script_catalogs', 'audit_seals', 'audit_nodes', 'audit_erasures', 'audit_erased'] LOOP
    EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION tollgate_append_only(''rows'')', t);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['tool_call_payloads', 'script_payloads'] LOOP
    EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION tollgate_append_only(''payloads'')', t);
  END LOOP;
END $$;

-- ---------------------------------------------------------------- partitions, retention

-- Drop the month of `at` for all tenants but those in `keep`: their rows move into a new partition that takes the old one's
-- place, and the old one is dropped whole. Nothing is ever deleted row by row. Returns the tables dropped.
CREATE FUNCTION tollgate_retire(at timestamptz, keep uuid[]) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  parent text;
  month timestamptz := date_trunc('month', at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
  suffix text := to_char(at AT TIME ZONE 'UTC', 'YYYYMM');
  part text;
  survivors boolean;
  dropped integer := 0;
BEGIN
  PERFORM pg_advisory_xact_lock(7420001);
  -- Inserts into other months wait behind these locks: better to try again later than to hold them up.
  PERFORM set_config('lock_timeout', '2s', true);
  FOREACH parent IN ARRAY tollgate_audit_parents() LOOP
    part := format('%s_p%s', parent, suffix);
    CONTINUE WHEN to_regclass(format('%I', part)) IS NULL;
    EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE tenant_id = ANY($1))', part) INTO survivors USING keep;
    EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', parent, part);
    EXECUTE format('ALTER TABLE %I RENAME TO %I', part, part || '_old');
    IF survivors THEN
      EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', part, parent,
                     tollgate_uuid_floor(month), tollgate_uuid_floor(month + interval '1 month'));
      EXECUTE format('INSERT INTO %I SELECT * FROM %I WHERE tenant_id = ANY($1)', part, part || '_old') USING keep;
    END IF;
    EXECUTE format('DROP TABLE %I', part || '_old');
    dropped := dropped + 1;
  END LOOP;
  -- The seals stay, and with them the chain; which rows they held goes with the rows.
  DELETE FROM audit_entries e USING audit_seals s
  WHERE s.tenant_id = e.tenant_id AND s.sequence = e.sequence AND NOT e.tenant_id = ANY(keep)
    AND s.high < tollgate_uuid_floor(month + interval '1 month');
  RETURN dropped;
END $$;

-- ---------------------------------------------------------------- who may do what

-- The end of the chain of admin changes, and its lock: taken last in a change, held to its commit.
CREATE FUNCTION tollgate_admin_chain(OUT sequence bigint, OUT root bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(7420002);
  SELECT h.sequence, h.root INTO sequence, root FROM (
    SELECT b.sequence, b.root FROM audit_batches b WHERE b.writer_id = '00000000-0000-0000-0000-000000000000'
    UNION ALL
    SELECT w.sequence, w.root FROM audit_writers w WHERE w.writer_id = '00000000-0000-0000-0000-000000000000') h
  ORDER BY h.sequence DESC LIMIT 1;
END $$;

REVOKE ALL ON FUNCTION tollgate_admin_chain(), tollgate_retire(timestamptz, uuid[]), tollgate_append_only(), tollgate_audit_parents() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate_admin_chain() TO tollgate_app, tollgate_sealer;
GRANT EXECUTE ON FUNCTION tollgate_retire(timestamptz, uuid[]) TO tollgate_control;

GRANT INSERT ON script_run_starts, script_run_ends, script_payloads, script_catalogs, audit_batches TO tollgate_writer;
GRANT SELECT ON script_run_starts, script_run_ends, script_payloads, script_catalogs, script_runs TO tollgate_app;
GRANT SELECT ON script_run_starts, script_run_ends, script_runs TO tollgate_control;
GRANT INSERT ON audit_batches, audit_erasures, audit_erased TO tollgate_app;
GRANT SELECT ON audit_seals, audit_entries, audit_nodes, audit_keys, audit_erasures, audit_erased TO tollgate_app;
GRANT SELECT, INSERT, UPDATE ON audit_settings TO tollgate_app;
GRANT SELECT ON audit_settings TO tollgate_control;
GRANT SELECT, DELETE ON audit_batches TO tollgate_sealer;
GRANT SELECT, INSERT, UPDATE, DELETE ON audit_writers TO tollgate_sealer;
GRANT SELECT, INSERT ON audit_keys, audit_seals, audit_entries, audit_nodes TO tollgate_sealer;
GRANT INSERT ON admin_events, audit_batches TO tollgate_sealer;
GRANT SELECT, DELETE ON tool_call_payloads, script_payloads TO tollgate_eraser;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['script_catalogs', 'script_run_ends', 'script_payloads', 'audit_seals', 'audit_entries', 'audit_nodes',
      'audit_settings', 'audit_erasures', 'audit_erased'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY one_tenant ON %I TO tollgate_app USING (tenant_id = (SELECT current_setting(''app.tenant_id'')::uuid))', t);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['tool_call_payloads', 'script_payloads'] LOOP
    EXECUTE format('CREATE POLICY one_tenant_erased ON %I TO tollgate_eraser USING (tenant_id = (SELECT current_setting(''app.tenant_id'')::uuid))', t);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['script_run_ends', 'script_payloads', 'script_catalogs'] LOOP
    EXECUTE format('CREATE POLICY writer_appends ON %I FOR INSERT TO tollgate_writer WITH CHECK (true)', t);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['script_run_ends', 'audit_settings'] LOOP
    EXECUTE format('CREATE POLICY control_reads ON %I FOR SELECT TO tollgate_control USING (true)', t);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['audit_seals', 'audit_entries', 'audit_nodes'] LOOP
    EXECUTE format('CREATE POLICY sealer_reads ON %I FOR SELECT TO tollgate_sealer USING (true)', t);
    EXECUTE format('CREATE POLICY sealer_seals ON %I FOR INSERT TO tollgate_sealer WITH CHECK (true)', t);
  END LOOP;
  CREATE POLICY sealer_notes ON admin_events FOR INSERT TO tollgate_sealer WITH CHECK (true);
  -- tollgate_retire runs as the owner, to whom forced row-level security applies unless it is a superuser.
  FOREACH t IN ARRAY tollgate_audit_parents() || ARRAY['audit_entries', 'audit_seals'] LOOP
    EXECUTE format('CREATE POLICY owner_retires ON %I TO %I USING (true) WITH CHECK (true)', t, CURRENT_USER);
  END LOOP;
END $$;
