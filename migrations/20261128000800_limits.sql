-- Limits of tokens and of calls under way at once, beside those of calls. What each function does is said once, in `domain::rate`; a test
-- sets this, Redis and memory beside that.

-- NULL: a limit of calls under way has no stretch of time.
ALTER TABLE rate_limits ALTER per DROP NOT NULL,
  ADD unit text NOT NULL DEFAULT 'call' CHECK (unit IN ('call', 'token', 'concurrent')),
  ADD CHECK ((unit = 'concurrent') = (per IS NULL));

-- Settle a difference, then serve wishes one by one. `now_us`: null but in tests. `tollgate_take` stays for workers of the version before.
CREATE FUNCTION tollgate_count(tenant uuid, rate_limit uuid, now_us bigint, spacing bigint, burst bigint, ceiling bigint, difference bigint,
                               weights bigint[], OUT taken boolean[], OUT debts bigint[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  at bigint;
  debt bigint;
  weight bigint;
  fits boolean;
  moved boolean := difference <> 0;
BEGIN
  taken := '{}'; debts := '{}';
  -- What the last milliseconds took is lost when the database's machine dies: a limit is no ledger, and not worth a turn of the disk.
  PERFORM set_config('synchronous_commit', 'off', true);
  INSERT INTO rate_states (tenant_id, rate_limit_id, even_at)
  SELECT tenant, rate_limit, 0 WHERE EXISTS (SELECT FROM rate_limits l WHERE l.tenant_id = tenant AND l.rate_limit_id = rate_limit)
  ON CONFLICT DO NOTHING;
  SELECT s.even_at INTO at FROM rate_states s WHERE s.tenant_id = tenant AND s.rate_limit_id = rate_limit FOR UPDATE;
  IF NOT FOUND THEN
    -- It was deleted a moment ago.
    taken := array_fill(true, ARRAY[cardinality(weights)]); debts := array_fill(0::bigint, ARRAY[cardinality(weights)]);
    RETURN;
  END IF;
  -- Read behind the lock, so that time does not run backwards from one turn to the next.
  now_us := COALESCE(now_us, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
  debt := LEAST(GREATEST(at - now_us * 1000, 0), ceiling);
  debt := LEAST(GREATEST(debt + difference * spacing, 0), ceiling);
  FOREACH weight IN ARRAY weights LOOP
    fits := debt + LEAST(weight, burst) * spacing <= burst * spacing;
    IF fits THEN
      debt := LEAST(debt + weight * spacing, ceiling);
      moved := true;
    END IF;
    taken := taken || fits; debts := debts || debt;
  END LOOP;
  UPDATE rate_states s SET even_at = now_us * 1000 + debt WHERE s.tenant_id = tenant AND s.rate_limit_id = rate_limit AND moved;
END $$;

-- Calls under way, as each worker last said. Times are microseconds of the database's clock.
CREATE TABLE rate_slots (
  tenant_id     uuid NOT NULL,
  rate_limit_id uuid NOT NULL,
  worker_id     uuid NOT NULL,
  -- What arrives behind something later is not heard.
  sequence      bigint NOT NULL,
  held          bigint NOT NULL,
  until_us      bigint NOT NULL,
  PRIMARY KEY (tenant_id, rate_limit_id, worker_id),
  FOREIGN KEY (tenant_id, rate_limit_id) REFERENCES rate_limits ON DELETE CASCADE
) WITH (fillfactor = 50);

-- Hear what a worker has under way, and how many more it would begin: how many it may have, and how many all others have.
CREATE FUNCTION tollgate_claim(tenant uuid, rate_limit uuid, now_us bigint, life_us bigint, most bigint, worker uuid, sequence bigint,
                               held bigint, wanted bigint, OUT own bigint, OUT others bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  -- One at a time.
  PERFORM FROM rate_limits l WHERE l.tenant_id = tenant AND l.rate_limit_id = rate_limit FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    own := held + wanted; others := 0;
    RETURN;
  END IF;
  now_us := COALESCE(now_us, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
  DELETE FROM rate_slots s WHERE s.tenant_id = tenant AND s.rate_limit_id = rate_limit AND s.until_us <= now_us;
  -- A clock that was set back lets nobody live for longer.
  UPDATE rate_slots s SET until_us = now_us + life_us
  WHERE s.tenant_id = tenant AND s.rate_limit_id = rate_limit AND s.until_us > now_us + life_us;
  SELECT COALESCE(sum(s.held), 0) INTO others FROM rate_slots s
  WHERE s.tenant_id = tenant AND s.rate_limit_id = rate_limit AND s.worker_id <> worker;
  own := held + LEAST(wanted, GREATEST(most - others - held, 0));
  INSERT INTO rate_slots AS s (tenant_id, rate_limit_id, worker_id, sequence, held, until_us)
  VALUES (tenant, rate_limit, worker, sequence, own, now_us + life_us)
  ON CONFLICT (tenant_id, rate_limit_id, worker_id) DO UPDATE SET sequence = EXCLUDED.sequence, held = EXCLUDED.held, until_us = EXCLUDED.until_us
  WHERE s.sequence < EXCLUDED.sequence;
END $$;

-- Workers that have said nothing for long.
CREATE FUNCTION tollgate_forget_slots() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  DELETE FROM rate_slots WHERE until_us < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - 3600000000
$$;

ALTER TABLE rate_slots ENABLE ROW LEVEL SECURITY;
ALTER TABLE rate_slots FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON rate_slots TO tollgate_app USING (tenant_id = (SELECT current_setting('app.tenant_id')::uuid));
DO $$ BEGIN
  EXECUTE format('CREATE POLICY owner_counts ON rate_slots TO %I USING (true) WITH CHECK (true)', CURRENT_USER);
END $$;
GRANT SELECT ON rate_slots TO tollgate_app;
REVOKE ALL ON FUNCTION tollgate_count(uuid, uuid, bigint, bigint, bigint, bigint, bigint, bigint[]),
  tollgate_claim(uuid, uuid, bigint, bigint, bigint, uuid, bigint, bigint, bigint), tollgate_forget_slots() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate_count(uuid, uuid, bigint, bigint, bigint, bigint, bigint, bigint[]),
  tollgate_claim(uuid, uuid, bigint, bigint, bigint, uuid, bigint, bigint, bigint), tollgate_forget_slots() TO tollgate_control;
