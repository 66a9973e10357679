-- What has become of an approval is told to webhooks, and the word of whoever asked does not count.

-- One row for each change of an approval, written in the change's own transaction; distributed, one for each webhook that is told of it.
CREATE TABLE approval_notices (
  tenant_id     uuid NOT NULL,
  approval_id   uuid NOT NULL,
  -- The approval's, which grows with each change: it is the order in which they are told.
  version       integer NOT NULL,
  -- A name in the operator's file; '' until it is known who is to be told.
  webhook       text NOT NULL DEFAULT '',
  event         text NOT NULL CHECK (event IN ('requested', 'confirmed', 'approved', 'denied', 'used', 'expired')),
  at            timestamptz NOT NULL,
  state         text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'failed')),
  attempts      integer NOT NULL DEFAULT 0,
  first_try_at  timestamptz,
  -- While one delivers it: when others may believe that it has died.
  next_try_at   timestamptz NOT NULL DEFAULT '-infinity',
  runner_id     uuid,
  delivered_at  timestamptz,
  error         text,
  PRIMARY KEY (tenant_id, approval_id, version, webhook)
);
CREATE INDEX approval_notices_waiting ON approval_notices (next_try_at) WHERE state = 'waiting';
CREATE INDEX approval_notices_by_age ON approval_notices (at);

-- Whoever changes an approval, and however: nothing that happens to one is left out.
CREATE FUNCTION tollgate_notice() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
DECLARE what text := NEW.state;
BEGIN
  IF TG_OP = 'INSERT' THEN
    what := 'requested';
  ELSIF NEW.version = OLD.version THEN
    RETURN NULL;
  ELSIF NEW.state = OLD.state THEN
    what := 'confirmed';
  END IF;
  INSERT INTO approval_notices (tenant_id, approval_id, version, event, at)
  VALUES (NEW.tenant_id, NEW.approval_id, NEW.version, what,
          CASE what WHEN 'requested' THEN NEW.requested_at WHEN 'approved' THEN NEW.decided_at WHEN 'denied' THEN NEW.decided_at
                    WHEN 'used' THEN NEW.used_at
                    ELSE GREATEST(NEW.requested_at, LEAST(statement_timestamp(), NEW.expires_at)) END)
  ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$;
CREATE TRIGGER notice AFTER INSERT OR UPDATE ON approvals FOR EACH ROW EXECUTE FUNCTION tollgate_notice();

-- Principals that are whoever asks with this key: they cannot confirm what it asks for.
ALTER TABLE virtual_keys ADD held_by text[] NOT NULL DEFAULT '{}';

GRANT SELECT, INSERT, UPDATE (state, attempts, next_try_at, delivered_at, error, runner_id) ON approval_notices TO tollgate_app;
-- To find what is to be told of any tenant, to distribute and to take it, and to forget what is old.
GRANT SELECT, INSERT, DELETE, UPDATE (attempts, first_try_at, next_try_at, runner_id) ON approval_notices TO tollgate_control;

ALTER TABLE approval_notices ENABLE ROW LEVEL SECURITY;
ALTER TABLE approval_notices FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON approval_notices TO tollgate_app USING (tenant_id = (SELECT current_setting('app.tenant_id')::uuid));
CREATE POLICY control_distributes ON approval_notices TO tollgate_control USING (true) WITH CHECK (true);
