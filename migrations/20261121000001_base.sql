-- The first schema. Conventions (see README.md in this folder):
--  * tenant_id leads every primary key, so that a distributed Postgres can spread by it; the three tables without one
--    (config_revision, platform_tokens, workers) describe the deployment, not a tenant.
--  * Row-level security is on and forced everywhere. Three roles, none of which can log in; the server's own login takes
--    one of them at the start of each transaction:
--      tollgate_app      one tenant at a time, the one in `app.tenant_id`; unset means an error, not all rows
--      tollgate_control  the few reads across tenants: whose key is this, what changed, what did a dead worker leave
--      tollgate_writer   inserts audit rows of any tenant and can neither read nor change them
--  * Times are timestamptz, money is bigint picos (1e-12 of the tenant's currency), ids are UUIDv7 made by the server.

DO $$
DECLARE r text;
BEGIN
  FOREACH r IN ARRAY ARRAY['tollgate_app', 'tollgate_control', 'tollgate_writer'] LOOP
    -- Roles belong to the cluster: another database's migration may be making the same ones right now.
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

-- ---------------------------------------------------------------- the deployment

-- One row, updated by every change of configuration and therefore the order in which those commit: a reader who has seen
-- revision n has seen everything up to n.
CREATE TABLE config_revision (
  single   boolean PRIMARY KEY DEFAULT true CHECK (single),
  revision bigint NOT NULL
);
INSERT INTO config_revision (revision) VALUES (1);

CREATE TABLE platform_tokens (
  token_id   uuid PRIMARY KEY,
  hash       bytea NOT NULL,
  created_at timestamptz NOT NULL,
  revoked_at timestamptz
);

-- Workers that run or have died. `oldest_open_call` bounds what the sweeper reads after a death: every call of the worker
-- below it is closed.
CREATE TABLE workers (
  worker_id        uuid PRIMARY KEY,
  started_at       timestamptz NOT NULL,
  heartbeat_at     timestamptz NOT NULL,
  oldest_open_call uuid NOT NULL
);

-- ---------------------------------------------------------------- configuration

CREATE TABLE tenants (
  tenant_id  uuid PRIMARY KEY,
  name       text NOT NULL,
  slug       text NOT NULL UNIQUE,
  currency   text NOT NULL,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  version    integer NOT NULL DEFAULT 1,
  -- A deleted tenant keeps its rows (they are evidence) and serves nobody.
  deleted_at timestamptz,
  -- The config_revision at which something of this tenant last changed.
  revision   bigint NOT NULL DEFAULT 0
);
CREATE INDEX tenants_by_revision ON tenants (revision);

CREATE TABLE teams (
  tenant_id  uuid NOT NULL REFERENCES tenants,
  team_id    uuid NOT NULL,
  name       text NOT NULL,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  version    integer NOT NULL DEFAULT 1,
  PRIMARY KEY (tenant_id, team_id),
  UNIQUE (tenant_id, name)
);

-- People who come in through OIDC and whose token names no tenant or role by itself.
CREATE TABLE admins (
  tenant_id  uuid NOT NULL REFERENCES tenants,
  admin_id   uuid NOT NULL,
  name       text NOT NULL,
  issuer     text NOT NULL,
  subject    text NOT NULL,
  role       text NOT NULL CHECK (role IN ('owner', 'admin', 'operator', 'finance', 'auditor')),
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  version    integer NOT NULL DEFAULT 1,
  PRIMARY KEY (tenant_id, admin_id),
  UNIQUE (tenant_id, issuer, subject)
);
CREATE INDEX admins_by_subject ON admins (issuer, subject);

CREATE TABLE service_tokens (
  tenant_id  uuid NOT NULL REFERENCES tenants,
  token_id   uuid NOT NULL,
  name       text NOT NULL,
  role       text NOT NULL CHECK (role IN ('owner', 'admin', 'operator', 'finance', 'auditor')),
  hash       bytea NOT NULL,
  created_at timestamptz NOT NULL,
  expires_at timestamptz,
  revoked_at timestamptz,
  PRIMARY KEY (tenant_id, token_id)
);
CREATE UNIQUE INDEX service_tokens_by_id ON service_tokens (token_id);

CREATE TABLE upstreams (
  tenant_id       uuid NOT NULL REFERENCES tenants,
  upstream_id     uuid NOT NULL,
  name            text NOT NULL,
  description     text,
  -- {"type":"stdio","program":..} or {"type":"http","url":..}; header values are not in here.
  transport       jsonb NOT NULL,
  -- Header values, sealed by the server; null where there are none.
  sealed_headers  bytea,
  exposure        text NOT NULL CHECK (exposure IN ('classic', 'code')),
  binding         text NOT NULL CHECK (binding IN ('server', 'tool')),
  timeout_ms      integer NOT NULL CHECK (timeout_ms BETWEEN 1 AND 3600000),
  sync_interval_s integer NOT NULL CHECK (sync_interval_s BETWEEN 10 AND 86400),
  -- 'auto': what the first discovery finds is approved; 'review': everything waits for an admin.
  tool_approval   text NOT NULL CHECK (tool_approval IN ('auto', 'review')),
  created_at      timestamptz NOT NULL,
  updated_at      timestamptz NOT NULL,
  version         integer NOT NULL DEFAULT 1,
  -- Set by the first discovery.
  discovered_at   timestamptz,
  deleted_at      timestamptz,
  PRIMARY KEY (tenant_id, upstream_id)
);
CREATE UNIQUE INDEX upstreams_by_name ON upstreams (tenant_id, name) WHERE deleted_at IS NULL;

-- What each worker sees of an upstream. The state that an admin reads is the best of the fresh ones.
CREATE TABLE upstream_status (
  tenant_id   uuid NOT NULL,
  upstream_id uuid NOT NULL,
  worker_id   uuid NOT NULL,
  state       text NOT NULL CHECK (state IN ('connected', 'connecting', 'disconnected', 'error')),
  error       text,
  -- name, version and protocol of the peer
  server      jsonb,
  checked_at  timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, upstream_id, worker_id),
  FOREIGN KEY (tenant_id, upstream_id) REFERENCES upstreams ON DELETE CASCADE
);

-- An admin asks, a worker that is connected answers.
CREATE TABLE sync_requests (
  tenant_id   uuid NOT NULL,
  sync_id     uuid NOT NULL,
  upstream_id uuid NOT NULL,
  requested_at timestamptz NOT NULL,
  -- {"added":[..],"changed":[..],"removed":[..]} or {"error":".."}
  answer      jsonb,
  answered_at timestamptz,
  PRIMARY KEY (tenant_id, sync_id),
  FOREIGN KEY (tenant_id, upstream_id) REFERENCES upstreams ON DELETE CASCADE
);
CREATE INDEX sync_requests_open ON sync_requests (requested_at) WHERE answered_at IS NULL;

CREATE TABLE tools (
  tenant_id         uuid NOT NULL,
  tool_id           uuid NOT NULL,
  upstream_id       uuid NOT NULL,
  name              text NOT NULL,
  status            text NOT NULL CHECK (status IN ('approved', 'quarantined')),
  -- The definition that the upstream serves now, and the one that an admin (or the first discovery) approved.
  definition_sha256 bytea NOT NULL,
  approved_sha256   bytea,
  created_at        timestamptz NOT NULL,
  updated_at        timestamptz NOT NULL,
  version           integer NOT NULL DEFAULT 1,
  -- The upstream no longer lists it; it comes back under the same id and pin.
  removed_at        timestamptz,
  PRIMARY KEY (tenant_id, tool_id),
  UNIQUE (tenant_id, upstream_id, name),
  FOREIGN KEY (tenant_id, upstream_id) REFERENCES upstreams
);

CREATE TABLE tool_versions (
  tenant_id         uuid NOT NULL,
  tool_id           uuid NOT NULL,
  definition_sha256 bytea NOT NULL,
  -- The exact JSON text that the upstream sent: jsonb would reorder its keys and refuse \u0000.
  definition        text NOT NULL,
  seen_at           timestamptz NOT NULL,
  approved_at       timestamptz,
  approved_by       text,
  PRIMARY KEY (tenant_id, tool_id, definition_sha256),
  FOREIGN KEY (tenant_id, tool_id) REFERENCES tools
);

CREATE TABLE tool_groups (
  tenant_id     uuid NOT NULL REFERENCES tenants,
  tool_group_id uuid NOT NULL,
  name          text NOT NULL,
  slug          text NOT NULL,
  created_at    timestamptz NOT NULL,
  updated_at    timestamptz NOT NULL,
  version       integer NOT NULL DEFAULT 1,
  PRIMARY KEY (tenant_id, tool_group_id),
  UNIQUE (tenant_id, slug)
);

-- Members and approval rules of a group. tool_name '*' is every tool of the upstream, now and later.
CREATE TABLE tool_group_tools (
  tenant_id     uuid NOT NULL,
  tool_group_id uuid NOT NULL,
  upstream_id   uuid NOT NULL,
  -- 'member' grants; 'approval' holds a call until `confirmations` different people confirm it.
  kind          text NOT NULL CHECK (kind IN ('member', 'approval')),
  tool_name     text NOT NULL,
  confirmations smallint CHECK ((kind = 'approval') = (confirmations IN (1, 2)) AND (kind = 'approval') = (confirmations IS NOT NULL)),
  PRIMARY KEY (tenant_id, tool_group_id, upstream_id, kind, tool_name),
  FOREIGN KEY (tenant_id, tool_group_id) REFERENCES tool_groups ON DELETE CASCADE,
  FOREIGN KEY (tenant_id, upstream_id) REFERENCES upstreams
);

CREATE TABLE virtual_keys (
  tenant_id            uuid NOT NULL REFERENCES tenants,
  key_id               uuid NOT NULL,
  name                 text NOT NULL,
  team_id              uuid,
  hash                 bytea NOT NULL,
  -- After a rotation with an overlap the old secret works until this time.
  previous_hash        bytea,
  previous_expires_at  timestamptz,
  -- Models that the key may ask for; null is all, empty is none.
  models               text[],
  expires_at           timestamptz,
  revoked_at           timestamptz,
  created_at           timestamptz NOT NULL,
  updated_at           timestamptz NOT NULL,
  version              integer NOT NULL DEFAULT 1,
  PRIMARY KEY (tenant_id, key_id),
  FOREIGN KEY (tenant_id, team_id) REFERENCES teams
);
CREATE UNIQUE INDEX virtual_keys_by_id ON virtual_keys (key_id);

CREATE TABLE virtual_key_tool_groups (
  tenant_id     uuid NOT NULL,
  key_id        uuid NOT NULL,
  tool_group_id uuid NOT NULL,
  PRIMARY KEY (tenant_id, key_id, tool_group_id),
  FOREIGN KEY (tenant_id, key_id) REFERENCES virtual_keys ON DELETE CASCADE,
  FOREIGN KEY (tenant_id, tool_group_id) REFERENCES tool_groups
);
CREATE INDEX virtual_key_tool_groups_by_group ON virtual_key_tool_groups (tenant_id, tool_group_id);

-- Never updated: a new price supersedes from its effective_from on.
CREATE TABLE prices (
  tenant_id      uuid NOT NULL REFERENCES tenants,
  price_id       uuid NOT NULL,
  tool_id        uuid,
  upstream_id    uuid,
  amount_picos   bigint NOT NULL CHECK (amount_picos >= 0),
  unit           text NOT NULL CHECK (unit IN ('call')),
  effective_from timestamptz NOT NULL,
  created_at     timestamptz NOT NULL,
  created_by     text NOT NULL,
  PRIMARY KEY (tenant_id, price_id),
  CHECK (num_nonnulls(tool_id, upstream_id) = 1),
  CHECK (effective_from >= created_at),
  FOREIGN KEY (tenant_id, tool_id) REFERENCES tools,
  FOREIGN KEY (tenant_id, upstream_id) REFERENCES upstreams
);
CREATE UNIQUE INDEX prices_of_tool ON prices (tenant_id, tool_id, effective_from) WHERE tool_id IS NOT NULL;
CREATE UNIQUE INDEX prices_of_upstream ON prices (tenant_id, upstream_id, effective_from) WHERE upstream_id IS NOT NULL;

CREATE TABLE admin_events (
  tenant_id   uuid NOT NULL,
  event_id    uuid NOT NULL,
  at          timestamptz NOT NULL,
  -- 'platform', 'service_token', 'admin', 'system', 'anonymous'
  actor_kind  text NOT NULL,
  actor_id    text NOT NULL,
  role        text,
  -- '<noun>.<verb>', such as 'key.revoke'
  action      text NOT NULL,
  target_id   text NOT NULL,
  detail      jsonb NOT NULL,
  request_id  text,
  PRIMARY KEY (tenant_id, event_id)
);

-- The answer to a POST, kept for a day under the caller's key. The answer may hold a secret: it is sealed by the server.
CREATE TABLE idempotency_keys (
  tenant_id    uuid NOT NULL,
  principal    text NOT NULL,
  key          text NOT NULL,
  request_hash bytea NOT NULL,
  status       smallint NOT NULL,
  sealed_answer bytea NOT NULL,
  created_at   timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, principal, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

-- ---------------------------------------------------------------- the audit trail
-- Append-only and partitioned by the UUIDv7 id itself: an id prunes to its partition as a time range does, and the primary
-- key is global. The only other indexes are the two by which a reader goes from a parent to its calls, partial on intents
-- so that a completion touches the primary key alone: inserts are what these tables are for. Everything else that people
-- filter by (key, tool, team, outcome) is read within a time range of one tenant, which the primary key serves.

CREATE TABLE llm_requests (
  tenant_id      uuid NOT NULL,
  llm_request_id uuid NOT NULL,
  key_id         uuid NOT NULL,
  team_id        uuid,
  -- 'llm': forwarded by our LLM endpoint; 'minted': made for an MCP request that named no parent
  origin         text NOT NULL CHECK (origin IN ('llm', 'minted')),
  -- the MCP method or the LLM route, and what it was about
  method         text NOT NULL,
  model          text,
  client         text,
  at             timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, llm_request_id)
) PARTITION BY RANGE (llm_request_id);

CREATE TABLE script_runs (
  tenant_id       uuid NOT NULL,
  script_run_id   uuid NOT NULL,
  llm_request_id  uuid NOT NULL,
  key_id          uuid NOT NULL,
  team_id         uuid,
  state           text NOT NULL CHECK (state IN ('running', 'waiting_approval', 'done', 'failed')),
  source          text NOT NULL,
  -- The catalogue that the script ran against, as canonical JSON, and its SHA-256: a replay needs the same.
  catalog         bytea NOT NULL,
  catalog_sha256  bytea NOT NULL,
  engine          text NOT NULL,
  worker_id       uuid NOT NULL,
  opened_at       timestamptz NOT NULL,
  -- Set once, when the run ends. JSON text, zstd.
  result          bytea,
  logs            bytea,
  error           bytea,
  ticks           bigint,
  closed_at       timestamptz,
  PRIMARY KEY (tenant_id, script_run_id)
) PARTITION BY RANGE (script_run_id);
CREATE INDEX script_runs_by_request ON script_runs (tenant_id, llm_request_id);

-- What the script saw of its calls, in order: with source and catalogue this replays the run. JSON text, zstd.
CREATE TABLE script_journal (
  tenant_id     uuid NOT NULL,
  script_run_id uuid NOT NULL,
  sequence      integer NOT NULL,
  call_id       uuid NOT NULL,
  entry         bytea NOT NULL,
  PRIMARY KEY (tenant_id, script_run_id, sequence)
) PARTITION BY RANGE (script_run_id);

CREATE TABLE tool_call_events (
  tenant_id         uuid NOT NULL,
  call_id           uuid NOT NULL,
  -- 0 intent: durable before the upstream hears of the call; 1 completion: durable before the answer is released;
  -- 2 resolution: written by the sweeper for a call whose worker died
  kind              smallint NOT NULL CHECK (kind IN (0, 1, 2)),
  at                timestamptz NOT NULL,
  -- intent
  llm_request_id    uuid,
  origin            text,
  script_run_id     uuid,
  sequence          integer,
  key_id            uuid,
  team_id           uuid,
  upstream_id       uuid,
  upstream_name     text,
  tool_id           uuid,
  tool_name         text,
  definition_sha256 bytea,
  decision          text,
  reason            text,
  price_id          uuid,
  quoted_picos      bigint,
  currency          text,
  worker_id         uuid,
  arguments_sha256  bytea,
  -- completion and resolution; on the intent of a call that was denied or held
  outcome           text,
  error             text,
  latency_us        bigint,
  amount_picos      bigint,
  result_sha256     bytea,
  PRIMARY KEY (tenant_id, call_id, kind),
  CHECK (kind <> 0 OR (llm_request_id IS NOT NULL AND key_id IS NOT NULL AND decision IS NOT NULL AND tool_name IS NOT NULL
                       AND (script_run_id IS NULL) = (sequence IS NULL) AND (decision = 'permitted') = (outcome IS NULL))),
  CHECK (kind = 0 OR outcome IS NOT NULL)
) PARTITION BY RANGE (call_id);
CREATE INDEX tool_call_events_by_request ON tool_call_events (tenant_id, llm_request_id) WHERE kind = 0;
CREATE INDEX tool_call_events_by_run ON tool_call_events (tenant_id, script_run_id, sequence) WHERE script_run_id IS NOT NULL;

-- Arguments (kind 0) and results (kind 1): the exact JSON bytes, zstd.
CREATE TABLE tool_call_payloads (
  tenant_id uuid NOT NULL,
  call_id   uuid NOT NULL,
  kind      smallint NOT NULL CHECK (kind IN (0, 1)),
  size      integer NOT NULL,
  body      bytea NOT NULL,
  PRIMARY KEY (tenant_id, call_id, kind)
) PARTITION BY RANGE (call_id);

-- A call is one row to everyone who reads. A completion that comes after the sweeper's resolution (a worker that was cut
-- off, not dead) is the truth: it sorts first. The look-up per call keeps a page a page; a join would read all completions.
CREATE VIEW tool_calls WITH (security_invoker = true) AS
SELECT i.tenant_id, i.call_id, i.llm_request_id, i.origin, i.script_run_id, i.sequence, i.key_id, i.team_id,
       i.upstream_id, i.upstream_name, i.tool_id, i.tool_name, i.definition_sha256, i.decision, i.reason,
       COALESCE(d.outcome, i.outcome) AS outcome,
       CASE WHEN d.outcome IS NULL THEN i.error ELSE d.error END AS error,
       i.at AS opened_at,
       COALESCE(d.at, CASE WHEN i.outcome IS NOT NULL THEN i.at END) AS closed_at,
       COALESCE(d.latency_us, i.latency_us) AS latency_us,
       i.price_id, COALESCE(d.amount_picos, i.amount_picos) AS amount_picos, i.currency,
       i.worker_id, i.arguments_sha256, d.result_sha256
FROM tool_call_events i
LEFT JOIN LATERAL (
  SELECT e.outcome, e.error, e.at, e.latency_us, e.amount_picos, e.result_sha256 FROM tool_call_events e
  WHERE e.tenant_id = i.tenant_id AND e.call_id = i.call_id AND e.kind > 0 ORDER BY e.kind LIMIT 1) d ON true
WHERE i.kind = 0;

-- ---------------------------------------------------------------- partitions

CREATE FUNCTION tollgate_uuid_floor(at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT AS
$$ SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid $$;

-- Partitions for the month of `at` and the two after it. The default partitions take whatever a wrong clock produces, so
-- that no row is ever refused for its time.
CREATE FUNCTION tollgate_ensure_partitions(at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  parent text;
  month timestamptz;
  part text;
BEGIN
  PERFORM pg_advisory_xact_lock(7420001);
  -- A new partition locks its parent for a moment. Behind a long read it would wait, and every insert behind it.
  PERFORM set_config('lock_timeout', '2s', true);
  FOREACH parent IN ARRAY ARRAY['llm_requests', 'script_runs', 'script_journal', 'tool_call_events', 'tool_call_payloads'] LOOP
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

CREATE TABLE llm_requests_default PARTITION OF llm_requests DEFAULT;
CREATE TABLE script_runs_default PARTITION OF script_runs DEFAULT;
CREATE TABLE script_journal_default PARTITION OF script_journal DEFAULT;
CREATE TABLE tool_call_events_default PARTITION OF tool_call_events DEFAULT;
CREATE TABLE tool_call_payloads_default PARTITION OF tool_call_payloads DEFAULT;
SELECT tollgate_ensure_partitions(now());

-- ---------------------------------------------------------------- change notices

-- Called in the transaction of every change of configuration. Locks the one row until commit: revisions are visible in order.
CREATE FUNCTION tollgate_touch(tenant uuid) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE now_at bigint;
BEGIN
  -- Always the tenant first: a change of the tenant's own row holds that lock already.
  PERFORM 1 FROM tenants WHERE tenant_id = tenant FOR NO KEY UPDATE;
  UPDATE config_revision SET revision = revision + 1 RETURNING revision INTO now_at;
  UPDATE tenants SET revision = now_at WHERE tenant_id = tenant;
  PERFORM pg_notify('tollgate_config', now_at::text);
  RETURN now_at;
END $$;

-- ---------------------------------------------------------------- who may do what

GRANT SELECT, INSERT, UPDATE, DELETE ON teams, admins, service_tokens, upstreams, upstream_status, sync_requests, tools,
  tool_versions, tool_groups, tool_group_tools, virtual_keys, virtual_key_tool_groups TO tollgate_app;
GRANT SELECT, INSERT, UPDATE ON tenants TO tollgate_app;
GRANT SELECT, INSERT ON prices, admin_events TO tollgate_app;
GRANT SELECT, INSERT, DELETE ON idempotency_keys TO tollgate_app;
GRANT SELECT ON llm_requests, script_journal, tool_call_events, tool_call_payloads, tool_calls, script_runs TO tollgate_app;
GRANT UPDATE (state, result, logs, error, ticks, closed_at) ON script_runs TO tollgate_app;
GRANT SELECT ON config_revision TO tollgate_app, tollgate_control;

GRANT SELECT ON tenants, service_tokens, admins, virtual_keys, upstreams, sync_requests, tool_call_events, script_runs TO tollgate_control;
GRANT SELECT, INSERT, UPDATE ON platform_tokens TO tollgate_control;
GRANT SELECT, INSERT, UPDATE, DELETE ON workers TO tollgate_control;
GRANT DELETE ON idempotency_keys, sync_requests TO tollgate_control;
GRANT SELECT ON idempotency_keys TO tollgate_control;

GRANT INSERT ON llm_requests, script_runs, script_journal, tool_call_events, tool_call_payloads TO tollgate_writer;

REVOKE ALL ON FUNCTION tollgate_ensure_partitions(timestamptz), tollgate_touch(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate_ensure_partitions(timestamptz) TO tollgate_control;
GRANT EXECUTE ON FUNCTION tollgate_touch(uuid) TO tollgate_app;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['tenants', 'teams', 'admins', 'service_tokens', 'upstreams', 'upstream_status', 'sync_requests',
      'tools', 'tool_versions', 'tool_groups', 'tool_group_tools', 'virtual_keys', 'virtual_key_tool_groups', 'prices',
      'admin_events', 'idempotency_keys', 'llm_requests', 'script_runs', 'script_journal', 'tool_call_events',
      'tool_call_payloads'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    -- The sub-select makes the setting a constant for the planner, so that the index is used. Unset, it is an error.
    EXECUTE format('CREATE POLICY one_tenant ON %I TO tollgate_app USING (tenant_id = (SELECT current_setting(''app.tenant_id'')::uuid))', t);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['tenants', 'service_tokens', 'admins', 'virtual_keys', 'upstreams', 'sync_requests',
      'tool_call_events', 'script_runs'] LOOP
    EXECUTE format('CREATE POLICY control_reads ON %I FOR SELECT TO tollgate_control USING (true)', t);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['idempotency_keys', 'sync_requests'] LOOP
    EXECUTE format('CREATE POLICY control_forgets ON %I FOR DELETE TO tollgate_control USING (true)', t);
  END LOOP;
  CREATE POLICY control_ages ON idempotency_keys FOR SELECT TO tollgate_control USING (true);
  FOREACH t IN ARRAY ARRAY['llm_requests', 'script_runs', 'script_journal', 'tool_call_events', 'tool_call_payloads'] LOOP
    EXECUTE format('CREATE POLICY writer_appends ON %I FOR INSERT TO tollgate_writer WITH CHECK (true)', t);
  END LOOP;
END $$;

-- The functions above run as the owner, to whom forced row-level security applies as well unless it is a superuser.
DO $$
BEGIN
  EXECUTE format('CREATE POLICY owner_touches ON tenants TO %I USING (true)', CURRENT_USER);
END $$;
