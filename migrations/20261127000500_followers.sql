-- Followers of the log: sinks and anchors read each tenant's sealed log in order, and remember here how far they got. The log
-- itself is their outbox: what is sealed stays where it is, and a follower that was away goes on where it stopped.
--
-- One small row per tenant and follower, rewritten with every delivery; the fill factor leaves room to do so in place. No index
-- beside the primary key: what is asked is one row, a tenant's rows, or all of them.

CREATE TABLE audit_followers (
  tenant_id     uuid NOT NULL,
  -- A name in the operator's settings.
  follower      text NOT NULL,
  -- Of the first entry in the tenant's log that has not been delivered.
  position      bigint NOT NULL CHECK (position >= 0),
  updated_at    timestamptz NOT NULL,
  -- Why the last try failed, in words that a tenant may read; null after one that went well.
  last_error    text,
  failing_since timestamptz,
  -- The process that delivers, and until when it may, by the database's clock.
  holder        uuid,
  held_until    timestamptz,
  PRIMARY KEY (tenant_id, follower)
) WITH (fillfactor = 70);

-- Which logs have something new: no more of a seal than that.
GRANT SELECT (tenant_id, sequence, first, count) ON audit_seals TO tollgate_control;
CREATE POLICY control_reads ON audit_seals FOR SELECT TO tollgate_control USING (true);

-- Tenants see how their followers do. Where these stand is the gateway's to say.
GRANT SELECT ON audit_followers TO tollgate_app;
GRANT SELECT, INSERT, UPDATE ON audit_followers TO tollgate_control;
ALTER TABLE audit_followers ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_followers FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON audit_followers TO tollgate_app USING (tenant_id = (SELECT current_setting('app.tenant_id')::uuid));
CREATE POLICY control_moves ON audit_followers TO tollgate_control USING (true) WITH CHECK (true);
