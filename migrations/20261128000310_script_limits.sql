-- Limits of a tenant's scripts below those of the installation. Null: the installation's.
CREATE TABLE script_limits (
  tenant_id         uuid PRIMARY KEY REFERENCES tenants,
  wall_seconds      bigint CHECK (wall_seconds > 0),
  step_milliseconds bigint CHECK (step_milliseconds > 0),
  heap_bytes        bigint CHECK (heap_bytes > 0),
  ticks             bigint CHECK (ticks > 0),
  calls             bigint CHECK (calls > 0),
  log_bytes         bigint CHECK (log_bytes > 0),
  result_bytes      bigint CHECK (result_bytes > 0),
  answer_chars      bigint CHECK (answer_chars > 0),
  updated_at        timestamptz NOT NULL,
  version           integer NOT NULL DEFAULT 1
);
GRANT SELECT, INSERT, UPDATE ON script_limits TO tollgate_app;
ALTER TABLE script_limits ENABLE ROW LEVEL SECURITY;
ALTER TABLE script_limits FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON script_limits TO tollgate_app USING (tenant_id = (SELECT current_setting('app.tenant_id')::uuid));
