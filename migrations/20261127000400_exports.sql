-- Export jobs: the trail written to one of the operator's destinations, part by part, by whichever process of the admin API
-- takes the job. A job names what it covers by positions of the tenant's log, so that it covers the same rows however often
-- it is resumed.

CREATE TABLE export_jobs (
  tenant_id     uuid NOT NULL REFERENCES tenants,
  export_job_id uuid NOT NULL,
  state         text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
  format        text NOT NULL,
  -- A name in the operator's file, and a path below it.
  destination   text NOT NULL,
  path          text NOT NULL,
  -- What of the calls: times and ids.
  filter        jsonb NOT NULL,
  -- What it covers, `first` to `until`, exclusive; `position` is the end of the last part that is whole.
  first         bigint NOT NULL CHECK (first >= 0),
  position      bigint NOT NULL,
  until         bigint NOT NULL CHECK (first <= position AND position <= until),
  -- Rows that retention has dropped are passed over.
  lenient       boolean NOT NULL,
  rows          bigint NOT NULL DEFAULT 0,
  bytes         bigint NOT NULL DEFAULT 0,
  parts         integer NOT NULL DEFAULT 0,
  error         text,
  -- Whoever works on it says so now and then; one that is silent has lost it.
  runner_id     uuid,
  heartbeat_at  timestamptz,
  created_at    timestamptz NOT NULL,
  started_at    timestamptz,
  finished_at   timestamptz,
  PRIMARY KEY (tenant_id, export_job_id)
);
-- What there is to do, oldest first: a handful of rows, however many jobs there have been.
CREATE INDEX export_jobs_open ON export_jobs (created_at) WHERE state IN ('queued', 'running');

CREATE TABLE export_parts (
  tenant_id     uuid NOT NULL,
  export_job_id uuid NOT NULL,
  number        integer NOT NULL CHECK (number > 0),
  name          text NOT NULL,
  rows          bigint NOT NULL,
  bytes         bigint NOT NULL,
  sha256        bytea NOT NULL,
  PRIMARY KEY (tenant_id, export_job_id, number),
  FOREIGN KEY (tenant_id, export_job_id) REFERENCES export_jobs
);

GRANT SELECT, INSERT, UPDATE ON export_jobs TO tollgate_app;
GRANT SELECT, INSERT ON export_parts TO tollgate_app;
-- To find the next job of any tenant, and to take it.
GRANT SELECT, UPDATE (state, runner_id, heartbeat_at, started_at) ON export_jobs TO tollgate_control;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['export_jobs', 'export_parts'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY one_tenant ON %I TO tollgate_app USING (tenant_id = (SELECT current_setting(''app.tenant_id'')::uuid))', t);
  END LOOP;
END $$;
CREATE POLICY control_reads ON export_jobs FOR SELECT TO tollgate_control USING (true);
CREATE POLICY control_takes ON export_jobs FOR UPDATE TO tollgate_control USING (true) WITH CHECK (true);
