-- Calls that wait for people, and runs that outlive the worker that drives them.

-- ---------------------------------------------------------------- approvals

-- One call that a key wants to make and that people have to confirm first. It is bound to what was shown to them: the key, the
-- tool, the arguments, the rule under which they were asked, and in a script the run and the place in it.
CREATE TABLE approvals (
  tenant_id      uuid NOT NULL REFERENCES tenants,
  approval_id    uuid NOT NULL,
  -- 'used': the call was begun; an approval lets one call through.
  state          text NOT NULL CHECK (state IN ('pending', 'approved', 'denied', 'expired', 'used')),
  key_id         uuid NOT NULL,
  team_id        uuid,
  tool_id        uuid NOT NULL,
  upstream_id    uuid NOT NULL,
  upstream_name  text NOT NULL,
  tool_name      text NOT NULL,
  -- The held call: its arguments, as the tenant's redaction left them, are what approvers read.
  call_id        uuid NOT NULL,
  llm_request_id uuid NOT NULL,
  script_run_id  uuid,
  sequence       integer,
  -- Keyed by the servers' secret: a plain hash of arguments from which something was redacted could be guessed.
  arguments_hmac bytea NOT NULL,
  -- SHA-256 over the tool's definition and the number of confirmations.
  policy         bytea NOT NULL,
  confirmations  smallint NOT NULL CHECK (confirmations IN (1, 2)),
  requested_at   timestamptz NOT NULL,
  expires_at     timestamptz NOT NULL,
  decided_at     timestamptz,
  used_at        timestamptz,
  version        integer NOT NULL DEFAULT 1,
  PRIMARY KEY (tenant_id, approval_id),
  CHECK ((script_run_id IS NULL) = (sequence IS NULL))
);
-- Calls that are made at once share one approval.
CREATE UNIQUE INDEX approvals_of_call ON approvals (tenant_id, key_id, tool_id, arguments_hmac, policy)
  WHERE script_run_id IS NULL AND state IN ('pending', 'approved');
CREATE UNIQUE INDEX approvals_of_place ON approvals (tenant_id, script_run_id, sequence)
  WHERE script_run_id IS NOT NULL AND state IN ('pending', 'approved');
CREATE INDEX approvals_by_call ON approvals (tenant_id, key_id, tool_id, arguments_hmac) WHERE script_run_id IS NULL;
CREATE INDEX approvals_by_run ON approvals (tenant_id, script_run_id) WHERE script_run_id IS NOT NULL;
CREATE INDEX approvals_by_state ON approvals (tenant_id, state, approval_id);
CREATE INDEX approvals_waiting ON approvals (tenant_id, key_id) WHERE state = 'pending';
CREATE INDEX approvals_by_expiry ON approvals (expires_at) WHERE state IN ('pending', 'approved');

-- What people said. One principal counts once.
CREATE TABLE approval_confirmations (
  tenant_id   uuid NOT NULL,
  approval_id uuid NOT NULL,
  principal   text NOT NULL,
  label       text NOT NULL,
  decision    text NOT NULL CHECK (decision IN ('approve', 'deny')),
  reason      text,
  at          timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, approval_id, principal),
  FOREIGN KEY (tenant_id, approval_id) REFERENCES approvals
);

-- ---------------------------------------------------------------- runs without a driver

-- Runs that wait for an approval and that no worker drives.
CREATE TABLE suspended_runs (
  tenant_id     uuid NOT NULL,
  script_run_id uuid NOT NULL,
  key_id        uuid NOT NULL,
  since         timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, script_run_id)
);

-- Who drives a run after the worker that started it has let go of it or died: the last turn's worker. Taking a turn is
-- inserting it, so two workers cannot take the same one.
CREATE TABLE script_run_turns (
  tenant_id     uuid NOT NULL,
  script_run_id uuid NOT NULL,
  turn          integer NOT NULL CHECK (turn > 0),
  worker_id     uuid NOT NULL,
  why           text NOT NULL CHECK (why IN ('decided', 'crashed')),
  -- Lines of the journal when it was taken: a run that takes turn after turn and gets no further is given up.
  journal       integer NOT NULL,
  at            timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, script_run_id, turn)
);
CREATE INDEX script_run_turns_by_worker ON script_run_turns (worker_id);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON script_run_turns FOR EACH ROW EXECUTE FUNCTION tollgate_append_only('rows');

-- ---------------------------------------------------------------- the trail

-- The tool group by whose route the run came in: what drives it later sees no more than that.
ALTER TABLE script_run_starts ADD route text;
-- The approval that a call was held for, or made under.
ALTER TABLE tool_call_events ADD approval_id uuid;

CREATE OR REPLACE VIEW tool_calls WITH (security_invoker = true) AS
SELECT i.tenant_id, i.call_id, i.llm_request_id, i.origin, i.script_run_id, i.sequence, i.key_id, i.team_id,
       i.upstream_id, i.upstream_name, i.tool_id, i.tool_name, i.definition_sha256, i.decision, i.reason,
       COALESCE(d.outcome, i.outcome) AS outcome,
       CASE WHEN d.outcome IS NULL THEN i.error ELSE d.error END AS error,
       i.at AS opened_at,
       COALESCE(d.at, CASE WHEN i.outcome IS NOT NULL THEN i.at END) AS closed_at,
       COALESCE(d.latency_us, i.latency_us) AS latency_us,
       i.price_id, COALESCE(d.amount_picos, i.amount_picos) AS amount_picos, i.currency,
       i.worker_id, i.arguments_sha256, d.result_sha256, i.arguments_form, d.result_form, i.approval_id
FROM tool_call_events i
LEFT JOIN LATERAL (
  SELECT e.outcome, e.error, e.at, e.latency_us, e.amount_picos, e.result_sha256, e.result_form FROM tool_call_events e
  WHERE e.tenant_id = i.tenant_id AND e.call_id = i.call_id AND e.kind > 0 ORDER BY e.kind LIMIT 1) d ON true
WHERE i.kind = 0;

CREATE OR REPLACE VIEW script_runs WITH (security_invoker = true) AS
SELECT s.tenant_id, s.script_run_id, s.llm_request_id, s.key_id, s.team_id,
       COALESCE(e.state, CASE WHEN EXISTS (SELECT FROM suspended_runs w WHERE w.tenant_id = s.tenant_id AND w.script_run_id = s.script_run_id)
                              THEN 'waiting_approval' ELSE 'running' END) AS state,
       s.catalog_sha256, s.engine, s.limits, s.worker_id, s.opened_at, e.ticks, e.at AS closed_at, e.kind AS ended_by
FROM script_run_starts s
LEFT JOIN LATERAL (
  SELECT n.state, n.ticks, n.at, n.kind FROM script_run_ends n
  WHERE n.tenant_id = s.tenant_id AND n.script_run_id = s.script_run_id ORDER BY n.kind LIMIT 1) e ON true;

-- ---------------------------------------------------------------- who may do what

GRANT SELECT, INSERT ON approvals, approval_confirmations, script_run_turns TO tollgate_app;
GRANT UPDATE (state, call_id, decided_at, used_at, version) ON approvals TO tollgate_app;
GRANT UPDATE (decision, reason, label, at) ON approval_confirmations TO tollgate_app;
GRANT SELECT, INSERT, DELETE ON suspended_runs TO tollgate_app;
GRANT SELECT, UPDATE (state, version) ON approvals TO tollgate_control;
GRANT SELECT, DELETE ON suspended_runs TO tollgate_control;
GRANT SELECT, INSERT ON script_run_turns TO tollgate_control;
-- How far a run has come: ids and hashes, no text.
GRANT SELECT ON script_journal TO tollgate_control;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['approvals', 'approval_confirmations', 'suspended_runs', 'script_run_turns'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY one_tenant ON %I TO tollgate_app USING (tenant_id = (SELECT current_setting(''app.tenant_id'')::uuid))', t);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['approvals', 'suspended_runs', 'script_run_turns', 'script_journal'] LOOP
    EXECUTE format('CREATE POLICY control_reads ON %I FOR SELECT TO tollgate_control USING (true)', t);
  END LOOP;
  CREATE POLICY control_expires ON approvals FOR UPDATE TO tollgate_control USING (true);
  CREATE POLICY control_claims ON suspended_runs FOR DELETE TO tollgate_control USING (true);
  CREATE POLICY control_drives ON script_run_turns FOR INSERT TO tollgate_control WITH CHECK (true);
END $$;
