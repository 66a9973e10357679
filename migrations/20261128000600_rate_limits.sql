-- Limits on how often calls are made: one counter a limit, by the generic cell rate algorithm (ITU-T I.371, "virtual scheduling").

CREATE TABLE rate_limits (
  tenant_id     uuid NOT NULL REFERENCES tenants,
  rate_limit_id uuid NOT NULL,
  name          text NOT NULL,
  -- As those of budgets.
  team_id       uuid,
  key_id        uuid,
  upstream_id   uuid,
  tool_id       uuid,
  max           integer NOT NULL CHECK (max > 0),
  per           text NOT NULL CHECK (per IN ('second', 'minute', 'hour', 'day')),
  created_at    timestamptz NOT NULL,
  updated_at    timestamptz NOT NULL,
  version       integer NOT NULL DEFAULT 1,
  PRIMARY KEY (tenant_id, rate_limit_id)
);

-- When a limit will be as if it had never been used, in nanoseconds of the database's clock: all that has to be known of the past.
CREATE TABLE rate_states (
  tenant_id     uuid NOT NULL,
  rate_limit_id uuid NOT NULL,
  even_at       bigint NOT NULL,
  PRIMARY KEY (tenant_id, rate_limit_id),
  FOREIGN KEY (tenant_id, rate_limit_id) REFERENCES rate_limits ON DELETE CASCADE
) WITH (fillfactor = 20);

-- Take up to `wanted` calls from a limit; a negative number gives back. `wait`: how long until one more could be taken.
-- What the last milliseconds took is lost when the database's machine dies: a limit is no ledger, and not worth a turn of the disk.
CREATE FUNCTION tollgate_take(tenant uuid, rate_limit uuid, wanted integer, spacing bigint, burst bigint,
                              OUT taken integer, OUT remaining bigint, OUT wait bigint, OUT even bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  now bigint;
  at bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  INSERT INTO rate_states (tenant_id, rate_limit_id, even_at)
  SELECT tenant, rate_limit, 0 WHERE EXISTS (SELECT FROM rate_limits l WHERE l.tenant_id = tenant AND l.rate_limit_id = rate_limit)
  ON CONFLICT DO NOTHING;
  SELECT s.even_at INTO at FROM rate_states s WHERE s.tenant_id = tenant AND s.rate_limit_id = rate_limit FOR UPDATE;
  IF NOT FOUND THEN
    -- It was deleted a moment ago.
    taken := wanted; remaining := burst; wait := 0; even := 0;
    RETURN;
  END IF;
  -- Read behind the lock, so that time does not run backwards from one turn to the next.
  now := (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint;
  -- A limit that has become shorter, or a clock that was set back, keeps nobody waiting for longer than the limit's own stretch.
  at := LEAST(GREATEST(at, now), now + burst * spacing);
  taken := GREATEST(LEAST(wanted::bigint, (burst * spacing - (at - now)) / spacing), LEAST(wanted, 0));
  at := at + taken * spacing;
  UPDATE rate_states s SET even_at = at WHERE s.tenant_id = tenant AND s.rate_limit_id = rate_limit AND taken <> 0;
  even := GREATEST(at - now, 0);
  remaining := GREATEST((burst * spacing - even) / spacing, 0);
  wait := GREATEST(even + spacing - burst * spacing, 0);
END $$;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['rate_limits', 'rate_states'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY one_tenant ON %I TO tollgate_app USING (tenant_id = (SELECT current_setting(''app.tenant_id'')::uuid))', t);
    EXECUTE format('CREATE POLICY owner_counts ON %I TO %I USING (true) WITH CHECK (true)', t, CURRENT_USER);
  END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON rate_limits TO tollgate_app;
GRANT SELECT, DELETE ON rate_states TO tollgate_app;
REVOKE ALL ON FUNCTION tollgate_take(uuid, uuid, integer, bigint, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate_take(uuid, uuid, integer, bigint, bigint) TO tollgate_control;
