-- Cost reports that are written at the end of each day, week or month and delivered to a place that the operator's file names.

CREATE TABLE report_schedules (
  tenant_id          uuid NOT NULL REFERENCES tenants,
  report_schedule_id uuid NOT NULL,
  name               text NOT NULL,
  every              text NOT NULL CHECK (every IN ('day', 'week', 'month')),
  -- What the report sums up: group_by, filters, top.
  ask                jsonb NOT NULL,
  format             text NOT NULL,
  -- Names in the operator's file, of which there is one.
  destination        text,
  webhook            text,
  enabled            boolean NOT NULL,
  -- Where the next period begins: each begins where the one before it ended, in whatever time zone that was.
  next_start         timestamptz NOT NULL,
  -- When that period can be told, at the earliest. A change of the tenant's time zone has it worked out anew.
  due_at             timestamptz NOT NULL,
  created_at         timestamptz NOT NULL,
  updated_at         timestamptz NOT NULL,
  version            integer NOT NULL DEFAULT 1,
  PRIMARY KEY (tenant_id, report_schedule_id),
  CHECK ((destination IS NULL) <> (webhook IS NULL))
);
CREATE INDEX report_schedules_due ON report_schedules (due_at) WHERE enabled;

-- One row a period: that is why it is delivered once.
CREATE TABLE report_deliveries (
  tenant_id          uuid NOT NULL,
  report_schedule_id uuid NOT NULL,
  starts_at          timestamptz NOT NULL,
  ends_at            timestamptz NOT NULL CHECK (starts_at < ends_at),
  -- Says the period: '2026-11', '2026-W48', '2026-11-28'.
  name               text NOT NULL,
  state              text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'failed')),
  attempts           integer NOT NULL DEFAULT 0,
  first_try_at       timestamptz,
  -- While one delivers it: when others may believe that it has died.
  next_try_at        timestamptz NOT NULL,
  runner_id          uuid,
  delivered_at       timestamptz,
  bytes              bigint,
  sha256             bytea,
  error              text,
  PRIMARY KEY (tenant_id, report_schedule_id, starts_at),
  UNIQUE (tenant_id, report_schedule_id, name),
  FOREIGN KEY (tenant_id, report_schedule_id) REFERENCES report_schedules ON DELETE CASCADE
);
CREATE INDEX report_deliveries_waiting ON report_deliveries (next_try_at) WHERE state = 'waiting';

GRANT SELECT, INSERT, UPDATE, DELETE ON report_schedules TO tollgate_app;
GRANT SELECT, INSERT, UPDATE ON report_deliveries TO tollgate_app;
-- To find what is due of any tenant, and to take it.
GRANT SELECT ON report_schedules, report_deliveries TO tollgate_control;
GRANT UPDATE (attempts, first_try_at, next_try_at, runner_id) ON report_deliveries TO tollgate_control;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['report_schedules', 'report_deliveries'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY one_tenant ON %I TO tollgate_app USING (tenant_id = (SELECT current_setting(''app.tenant_id'')::uuid))', t);
    EXECUTE format('CREATE POLICY control_reads ON %I FOR SELECT TO tollgate_control USING (true)', t);
  END LOOP;
END $$;
CREATE POLICY control_takes ON report_deliveries FOR UPDATE TO tollgate_control USING (true) WITH CHECK (true);
