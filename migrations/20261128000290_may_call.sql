-- Which tools a script may call, as its text shows before its first step. For people to read: authority is decided when a call
-- is made. JSON text, an array of `server.tool`.

-- Beside the question that approvers are asked. A run that was taken up again knows it from here.
ALTER TABLE approvals ADD may_call text;
-- Part of the line that is sealed.
ALTER TABLE script_run_ends ADD may_call text;

CREATE OR REPLACE VIEW script_runs WITH (security_invoker = true) AS
SELECT s.tenant_id, s.script_run_id, s.llm_request_id, s.key_id, s.team_id,
       COALESCE(e.state, CASE WHEN EXISTS (SELECT FROM suspended_runs w WHERE w.tenant_id = s.tenant_id AND w.script_run_id = s.script_run_id)
                              THEN 'waiting_approval' ELSE 'running' END) AS state,
       s.catalog_sha256, s.engine, s.limits, s.worker_id, s.opened_at, e.ticks, e.at AS closed_at, e.kind AS ended_by,
       COALESCE(e.may_call, (SELECT a.may_call FROM approvals a WHERE a.tenant_id = s.tenant_id AND a.script_run_id = s.script_run_id
                             ORDER BY a.approval_id DESC LIMIT 1)) AS may_call
FROM script_run_starts s
LEFT JOIN LATERAL (
  SELECT n.state, n.ticks, n.at, n.kind, n.may_call FROM script_run_ends n
  WHERE n.tenant_id = s.tenant_id AND n.script_run_id = s.script_run_id ORDER BY n.kind LIMIT 1) e ON true;
