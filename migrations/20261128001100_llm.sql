-- The LLM door: where requests are forwarded to, and what each of them came to.

-- ---------------------------------------------------------------- configuration

CREATE TABLE providers (
  tenant_id      uuid NOT NULL REFERENCES tenants,
  provider_id    uuid NOT NULL,
  -- The part before the slash in `openai/gpt-5`: lower-case letters, digits, `-` and `_`.
  name           text NOT NULL,
  -- What it speaks: 'openai' (chat completions, responses, embeddings) or 'anthropic' (messages).
  kind           text NOT NULL CHECK (kind IN ('openai', 'anthropic')),
  base_url       text NOT NULL,
  -- Names and weights of its keys, in the order in which they were given; their secrets are sealed beside them.
  keys           jsonb NOT NULL,
  sealed_secrets bytea NOT NULL,
  -- Models that it serves, each exact or a beginning with `*`; none is all.
  models         text[] NOT NULL DEFAULT '{}',
  -- From the last byte that was sent to the first that comes back, and between two that come.
  timeout_ms     integer NOT NULL CHECK (timeout_ms BETWEEN 1 AND 3600000),
  created_at     timestamptz NOT NULL,
  updated_at     timestamptz NOT NULL,
  version        integer NOT NULL DEFAULT 1,
  deleted_at     timestamptz,
  PRIMARY KEY (tenant_id, provider_id)
);
CREATE UNIQUE INDEX providers_by_name ON providers (tenant_id, name) WHERE deleted_at IS NULL;

-- A model's name that the tenant has chosen, and what it stands for: targets in order, of which the next is tried where one fails.
CREATE TABLE model_routes (
  tenant_id      uuid NOT NULL REFERENCES tenants,
  model_route_id uuid NOT NULL,
  name           text NOT NULL,
  -- [{"provider_id", "model", "weight"}]: those of a weight above 0 share the first tries by it; the others come after, in their order.
  targets        jsonb NOT NULL,
  created_at     timestamptz NOT NULL,
  updated_at     timestamptz NOT NULL,
  version        integer NOT NULL DEFAULT 1,
  PRIMARY KEY (tenant_id, model_route_id),
  UNIQUE (tenant_id, name)
);

-- Whether the gateway runs the tools that a model calls through the LLM door: never, where the request asks for it, or always; and for
-- how many turns.
ALTER TABLE virtual_keys ADD agent_mode text NOT NULL DEFAULT 'on_request' CHECK (agent_mode IN ('off', 'on_request', 'always')),
  ADD agent_turns integer NOT NULL DEFAULT 10 CHECK (agent_turns BETWEEN 1 AND 100);

-- ---------------------------------------------------------------- the trail

-- Of a request that used a tool of Code Mode: about how many tokens the tools behind it would have added to a prompt.
ALTER TABLE llm_requests ADD prompt_tokens_avoided bigint;

-- What a request of origin 'llm' has beyond `llm_requests`; one line of the log covers both. Durable before the provider hears of it.
CREATE TABLE llm_forwards (
  tenant_id          uuid NOT NULL,
  llm_request_id     uuid NOT NULL,
  -- The first request of the agent loop to which it belongs, often itself; and its place in it, from 1.
  root_id            uuid NOT NULL,
  turn               integer NOT NULL,
  mode               text NOT NULL CHECK (mode IN ('manual', 'agent')),
  streaming          boolean NOT NULL,
  worker_id          uuid NOT NULL,
  decision           text NOT NULL CHECK (decision IN ('permitted', 'denied')),
  reason             text,
  -- What the gateway has offered: how many tools, and how many tokens their definitions are, by estimate.
  tools_offered      integer NOT NULL,
  tools_tokens       bigint NOT NULL,
  -- What it may cost at most, drawn from each of the leases.
  quoted_picos       bigint NOT NULL,
  currency           text NOT NULL,
  leases             uuid[],
  prompt_sha256      bytea NOT NULL,
  prompt_form        smallint CHECK (prompt_form IN (1, 2)),
  prompt_kept_sha256 bytea,
  PRIMARY KEY (tenant_id, llm_request_id),
  CHECK ((decision = 'denied') = (reason IS NOT NULL))
) PARTITION BY RANGE (llm_request_id);
CREATE INDEX llm_forwards_by_root ON llm_forwards (tenant_id, root_id, turn);

-- kind 1: how it ended, durable before the end of the answer is released; 2: written by the sweeper where its worker died.
CREATE TABLE llm_request_ends (
  tenant_id          uuid NOT NULL,
  llm_request_id     uuid NOT NULL,
  kind               smallint NOT NULL CHECK (kind IN (1, 2)),
  at                 timestamptz NOT NULL,
  outcome            text NOT NULL,
  error              text,
  provider_id        uuid,
  provider_name      text,
  -- The model as the provider names it.
  model_served       text,
  -- Every try, as JSON text: [{"provider", "key", "model", "status"?, "error"?, "latency_us"}].
  attempts           text NOT NULL,
  -- As the provider counts them, or by estimate where it did not come to say. Cached ones are among the input, reasoning among the output.
  usage              text NOT NULL CHECK (usage IN ('reported', 'estimated', 'none')),
  input_tokens       bigint NOT NULL,
  cached_tokens      bigint NOT NULL,
  cache_write_tokens bigint NOT NULL,
  output_tokens      bigint NOT NULL,
  reasoning_tokens   bigint NOT NULL,
  -- Which price it was: the tenant's own, or the default table of a date; null for a model without one.
  price              text,
  amount_picos       bigint NOT NULL,
  latency_us         bigint,
  first_token_us     bigint,
  finish_reason      text,
  answer_sha256      bytea,
  answer_form        smallint CHECK (answer_form IN (1, 2)),
  answer_kept_sha256 bytea,
  PRIMARY KEY (tenant_id, llm_request_id, kind)
) PARTITION BY RANGE (llm_request_id);

CREATE TABLE llm_forwards_default PARTITION OF llm_forwards DEFAULT;
CREATE TABLE llm_request_ends_default PARTITION OF llm_request_ends DEFAULT;

CREATE OR REPLACE FUNCTION tollgate_audit_parents() RETURNS text[] LANGUAGE sql IMMUTABLE SET search_path = public, pg_temp AS
$$ SELECT ARRAY['llm_requests', 'llm_forwards', 'llm_request_ends', 'script_run_starts', 'script_run_ends', 'script_payloads',
                'script_journal', 'tool_call_events', 'tool_call_payloads'] $$;
DO $$
DECLARE month text;
BEGIN
  FOR month IN SELECT DISTINCT substring(inhrelid::regclass::text FROM '_p([0-9]{6})$') FROM pg_inherits
               WHERE inhparent = 'tool_call_events'::regclass AND inhrelid::regclass::text ~ '_p[0-9]{6}$' LOOP
    PERFORM tollgate_ensure_partitions(to_date(month, 'YYYYMM')::timestamp AT TIME ZONE 'UTC');
  END LOOP;
END $$;

-- Prompts and answers are texts like those of scripts, and rest beside them: parts 5 and 6, under the request's id. Not valid: what was
-- checked against less need not be read again, which would stop the writers meanwhile.
ALTER TABLE script_payloads DROP CONSTRAINT script_payloads_part_check,
  ADD CONSTRAINT script_payloads_part_check CHECK (part BETWEEN 0 AND 6) NOT VALID;

-- evidence::line::Part: 7 prompt, 8 answer.
ALTER TABLE audit_erased DROP CONSTRAINT audit_erased_part_check, ADD CONSTRAINT audit_erased_part_check CHECK (part BETWEEN 0 AND 8) NOT VALID;
ALTER TABLE audit_erasures ADD requests bigint NOT NULL DEFAULT 0;

-- One row to everyone who reads. The truth goes before the sweeper's word.
CREATE VIEW llm_calls WITH (security_invoker = true) AS
SELECT l.tenant_id, l.llm_request_id, l.key_id, l.team_id, l.origin, l.method, l.model, l.client, l.at, l.prompt_tokens_avoided,
       f.root_id, f.turn, f.mode, f.streaming, f.decision, f.reason, f.tools_offered, f.tools_tokens, f.currency, f.worker_id,
       CASE WHEN f.decision = 'denied' THEN 'denied' ELSE e.outcome END AS outcome, e.error, e.at AS closed_at,
       e.provider_id, e.provider_name, e.model_served, e.attempts, e.usage, e.input_tokens, e.cached_tokens, e.cache_write_tokens,
       e.output_tokens, e.reasoning_tokens, e.price, e.amount_picos, e.latency_us, e.first_token_us, e.finish_reason
FROM llm_requests l
LEFT JOIN llm_forwards f ON f.tenant_id = l.tenant_id AND f.llm_request_id = l.llm_request_id
LEFT JOIN LATERAL (
  SELECT * FROM llm_request_ends e WHERE e.tenant_id = l.tenant_id AND e.llm_request_id = l.llm_request_id ORDER BY e.kind LIMIT 1) e ON true;

-- ---------------------------------------------------------------- budgets: requests draw from leases as calls do

CREATE OR REPLACE FUNCTION tollgate_close_lease(lease uuid, drawn bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  l budget_leases;
BEGIN
  -- Waits for the transactions that draw from it; what follows sees their rows.
  SELECT * INTO l FROM budget_leases WHERE lease_id = lease AND closed_at IS NULL FOR UPDATE;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  IF drawn IS NULL THEN
    SELECT COALESCE(sum(d.quoted_picos), 0) INTO drawn FROM (
      SELECT e.quoted_picos FROM tool_call_events e
      WHERE e.tenant_id = l.tenant_id AND e.call_id >= l.floor AND e.kind = 0 AND e.leases @> ARRAY[lease]
      UNION ALL
      SELECT f.quoted_picos FROM llm_forwards f
      WHERE f.tenant_id = l.tenant_id AND f.llm_request_id >= l.floor AND f.leases @> ARRAY[lease]) d;
  END IF;
  UPDATE budget_leases SET closed_at = clock_timestamp() WHERE lease_id = lease;
  UPDATE budget_windows SET granted = granted - (l.amount - drawn)
  WHERE tenant_id = l.tenant_id AND budget_id = l.budget_id AND starts_at = l.starts_at AND l.amount <> drawn;
  RETURN true;
END $$;

-- As before; kinds 3 and 4 are the ends and the resolutions of LLM requests.
CREATE OR REPLACE FUNCTION tollgate_settle(tenants uuid[], calls uuid[], kinds smallint[], xids text[])
RETURNS TABLE (tenant_id uuid, budget_id uuid, starts_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  -- Of tenants without budgets nothing is looked up.
  WITH budgeted AS MATERIALIZED (
    SELECT n.tenant, n.call, n.kind, n.xid FROM UNNEST(tenants, calls, kinds, xids) AS n(tenant, call, kind, xid)
    WHERE EXISTS (SELECT FROM budgets b WHERE b.tenant_id = n.tenant)),
  ended AS MATERIALIZED (
    SELECT i.tenant_id, i.call_id, n.kind, i.leases, i.quoted_picos AS quoted, e.amount_picos AS amount
    FROM budgeted n
    JOIN tool_call_events i ON i.tenant_id = n.tenant AND i.call_id = n.call AND i.kind = 0 AND i.leases IS NOT NULL
    JOIN tool_call_events e ON e.tenant_id = n.tenant AND e.call_id = n.call AND e.kind = n.kind AND e.xmin = n.xid::xid8::xid
    WHERE n.kind IN (1, 2)
    UNION ALL
    SELECT f.tenant_id, f.llm_request_id, n.kind - 2, f.leases, f.quoted_picos, e.amount_picos
    FROM budgeted n
    JOIN llm_forwards f ON f.tenant_id = n.tenant AND f.llm_request_id = n.call AND f.leases IS NOT NULL
    JOIN llm_request_ends e ON e.tenant_id = n.tenant AND e.llm_request_id = n.call AND e.kind = n.kind - 2 AND e.xmin = n.xid::xid8::xid
    WHERE n.kind IN (3, 4)),
  -- A resolution counts unless the truth is known already; then the truth is or will be sealed, and counts.
  resolved AS (
    INSERT INTO resolved_calls (tenant_id, call_id, amount)
    SELECT n.tenant_id, n.call_id, n.amount FROM ended n
    WHERE n.kind = 2
      AND NOT EXISTS (SELECT FROM tool_call_events c WHERE c.tenant_id = n.tenant_id AND c.call_id = n.call_id AND c.kind = 1)
      AND NOT EXISTS (SELECT FROM llm_request_ends c WHERE c.tenant_id = n.tenant_id AND c.llm_request_id = n.call_id AND c.kind = 1)
    ON CONFLICT DO NOTHING RETURNING resolved_calls.tenant_id, resolved_calls.call_id),
  counted AS (
    SELECT n.leases, n.amount, 0::bigint AS difference FROM ended n JOIN resolved r USING (tenant_id, call_id) WHERE n.kind = 2
    UNION ALL
    SELECT n.leases, n.amount - COALESCE(r.amount, 0), n.amount - n.quoted
    FROM ended n LEFT JOIN resolved_calls r USING (tenant_id, call_id) WHERE n.kind = 1),
  sums AS (
    SELECT l.tenant_id, l.budget_id, l.starts_at, sum(c.amount) AS spent, sum(c.difference) AS difference
    FROM counted c CROSS JOIN UNNEST(c.leases) AS d(lease) JOIN budget_leases l ON l.lease_id = d.lease
    GROUP BY l.tenant_id, l.budget_id, l.starts_at),
  locked AS MATERIALIZED (
    SELECT w.tenant_id, w.budget_id, w.starts_at FROM budget_windows w
    WHERE (w.tenant_id, w.budget_id, w.starts_at) IN (SELECT s.tenant_id, s.budget_id, s.starts_at FROM sums s)
    ORDER BY w.tenant_id, w.budget_id, w.starts_at FOR NO KEY UPDATE),
  moved AS (
    UPDATE budget_windows w SET granted = w.granted + s.difference, spent = w.spent + s.spent
    FROM locked k JOIN sums s USING (tenant_id, budget_id, starts_at)
    WHERE w.tenant_id = k.tenant_id AND w.budget_id = k.budget_id AND w.starts_at = k.starts_at
    RETURNING w.tenant_id, w.budget_id, w.starts_at)
  SELECT m.tenant_id, m.budget_id, m.starts_at FROM moved m;
END $$;

-- ---------------------------------------------------------------- who may do what

GRANT SELECT, INSERT, UPDATE, DELETE ON model_routes TO tollgate_app;
GRANT SELECT, INSERT, UPDATE ON providers TO tollgate_app;
GRANT INSERT ON llm_forwards, llm_request_ends TO tollgate_writer;
GRANT SELECT ON llm_forwards, llm_request_ends, llm_calls TO tollgate_app;
GRANT SELECT ON llm_forwards, llm_request_ends TO tollgate_control;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['providers', 'model_routes', 'llm_forwards', 'llm_request_ends'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY one_tenant ON %I TO tollgate_app USING (tenant_id = (SELECT current_setting(''app.tenant_id'')::uuid))', t);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['llm_forwards', 'llm_request_ends'] LOOP
    EXECUTE format('CREATE POLICY writer_appends ON %I FOR INSERT TO tollgate_writer WITH CHECK (true)', t);
    EXECUTE format('CREATE POLICY control_reads ON %I FOR SELECT TO tollgate_control USING (true)', t);
    EXECUTE format('CREATE POLICY owner_retires ON %I TO %I USING (true) WITH CHECK (true)', t, CURRENT_USER);
    EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION tollgate_append_only(''rows'')', t);
  END LOOP;
END $$;
