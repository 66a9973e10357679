-- Agent loops that wait for people: what a model asked for needs an approval, so nobody drives the loop until that is decided.

-- What was said stands in the trail alone; here stands where the loop is, and which of the last turn's tool calls came to what row.
CREATE TABLE agent_loops (
  tenant_id      uuid NOT NULL REFERENCES tenants,
  -- The loop's first request.
  root_id        uuid NOT NULL,
  key_id         uuid NOT NULL,
  -- 'waiting': nobody drives it. 'driven': a worker makes the calls that were decided on, and asks the model again.
  state          text NOT NULL CHECK (state IN ('waiting', 'driven', 'done', 'failed')),
  -- The last turn that the model has ended.
  llm_request_id uuid NOT NULL,
  turn           integer NOT NULL CHECK (turn > 0),
  -- How it was asked for: {"turns", "own_tools", "client"?, "headers"}.
  settings       jsonb NOT NULL,
  -- The tool calls of that turn in their order, as far as they are made: [{"id", "name", "call"?, "approval"?, "run"?, "reads"}].
  calls          jsonb NOT NULL,
  -- What was done so far, as callers are told, without what came of it.
  progress       jsonb NOT NULL,
  approvals      uuid[] NOT NULL,
  runs           uuid[] NOT NULL,
  -- Who drives it: each time that somebody takes it, it is another claim.
  worker_id      uuid,
  claim          integer NOT NULL DEFAULT 0,
  -- Workers that have died in a row while they drove it and got no further.
  stuck          integer NOT NULL DEFAULT 0,
  -- Since when it is driven; and, of one that was let go because something would not take it, how often that was, and until when it rests.
  taken_at       timestamptz,
  tries          integer NOT NULL DEFAULT 0,
  not_before     timestamptz,
  -- Until then a caller waits for it, and goes on with it itself: it gets the answer while it comes.
  listened_until timestamptz,
  -- Of one that has failed: {"status", "code", "message"}.
  error          jsonb,
  since          timestamptz NOT NULL,
  ended_at       timestamptz,
  PRIMARY KEY (tenant_id, root_id),
  CHECK ((state = 'driven') = (worker_id IS NOT NULL)),
  CHECK ((state IN ('done', 'failed')) = (ended_at IS NOT NULL))
);
CREATE INDEX agent_loops_waiting ON agent_loops (since) WHERE state = 'waiting';
CREATE INDEX agent_loops_of_key ON agent_loops (tenant_id, key_id) WHERE state = 'waiting';
CREATE INDEX agent_loops_driven ON agent_loops (worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX agent_loops_ended ON agent_loops (ended_at) WHERE ended_at IS NOT NULL;

GRANT SELECT, INSERT, UPDATE ON agent_loops TO tollgate_app;
GRANT SELECT, DELETE, UPDATE (state, worker_id, claim, stuck, taken_at) ON agent_loops TO tollgate_control;

ALTER TABLE agent_loops ENABLE ROW LEVEL SECURITY;
ALTER TABLE agent_loops FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON agent_loops TO tollgate_app USING (tenant_id = (SELECT current_setting('app.tenant_id')::uuid));
CREATE POLICY control_drives ON agent_loops TO tollgate_control USING (true);
