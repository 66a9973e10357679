-- Budgets: what calls may cost together, enforced before they are made.
--
--   budget_windows.granted = what workers hold for calls to come (open leases)
--                          + what calls were opened at (drawn from leases that are closed)
--                          - what of that calls turned out not to cost (given back as they are sealed)
--
-- It only ever grows under its row's lock and up to the limit, so what calls cost cannot pass the limit, however many workers
-- draw. A lease is drawn from in a worker's memory; the row of the call names it, and the statement that writes the row holds the
-- lease open while it commits. So whoever closes a lease of a worker that died reads what was drawn in those rows, once and for all.

ALTER TABLE tenants ADD time_zone text NOT NULL DEFAULT 'UTC';

CREATE TABLE budgets (
  tenant_id    uuid NOT NULL REFERENCES tenants,
  budget_id    uuid NOT NULL,
  name         text NOT NULL,
  -- Calls that match every one that is set; none is the whole tenant.
  team_id      uuid,
  key_id       uuid,
  upstream_id  uuid,
  tool_id      uuid,
  limit_picos  bigint NOT NULL CHECK (limit_picos >= 0),
  period       text NOT NULL CHECK (period IN ('day', 'week', 'month', 'total', 'rolling')),
  rolling_days integer CHECK (rolling_days BETWEEN 1 AND 366),
  -- 'hard': a call that does not fit is refused. 'alert': nothing is refused.
  enforcement  text NOT NULL CHECK (enforcement IN ('hard', 'alert')),
  -- Percent of the limit at which an admin event is written, once in a window each.
  thresholds   smallint[] NOT NULL DEFAULT '{}',
  created_at   timestamptz NOT NULL,
  updated_at   timestamptz NOT NULL,
  -- Its calls are charged to it no more; what they cost stays readable.
  deleted_at   timestamptz,
  version      integer NOT NULL DEFAULT 1,
  PRIMARY KEY (tenant_id, budget_id),
  CHECK ((period = 'rolling') = (rolling_days IS NOT NULL))
);

-- A period of a budget. Of a rolling one a part: those that reach into the last days count together.
CREATE TABLE budget_windows (
  tenant_id uuid NOT NULL,
  budget_id uuid NOT NULL,
  starts_at timestamptz NOT NULL,
  ends_at   timestamptz NOT NULL,
  granted   numeric(38,0) NOT NULL DEFAULT 0,
  -- What calls that are sealed cost.
  spent     numeric(38,0) NOT NULL DEFAULT 0,
  -- The thresholds that were passed.
  alerted   smallint[] NOT NULL DEFAULT '{}',
  PRIMARY KEY (tenant_id, budget_id, starts_at),
  FOREIGN KEY (tenant_id, budget_id) REFERENCES budgets
) WITH (fillfactor = 50); -- updated all the time, in place

CREATE TABLE budget_leases (
  tenant_id  uuid NOT NULL,
  lease_id   uuid NOT NULL,
  budget_id  uuid NOT NULL,
  starts_at  timestamptz NOT NULL,
  worker_id  uuid NOT NULL,
  amount     bigint NOT NULL CHECK (amount >= 0),
  -- No call that draws from it has a smaller id.
  floor      uuid NOT NULL,
  -- By the database's clock, as is all that has to do with leases.
  expires_at timestamptz NOT NULL,
  closed_at  timestamptz,
  PRIMARY KEY (tenant_id, lease_id),
  FOREIGN KEY (tenant_id, budget_id, starts_at) REFERENCES budget_windows
);
CREATE UNIQUE INDEX budget_leases_by_id ON budget_leases (lease_id);
CREATE INDEX budget_leases_by_window ON budget_leases (tenant_id, budget_id, starts_at) WHERE closed_at IS NULL;
CREATE INDEX budget_leases_by_expiry ON budget_leases (expires_at) WHERE closed_at IS NULL;
CREATE INDEX budget_leases_by_closing ON budget_leases (closed_at) WHERE closed_at IS NOT NULL;

-- On an intent: what the call draws from, `quoted_picos` from each. No part of the row's line: what a call costs is.
ALTER TABLE tool_call_events ADD leases uuid[];

-- Calls that were settled as the sweeper resolved them: should their own worker turn up with the truth, the difference counts.
CREATE TABLE resolved_calls (
  tenant_id uuid NOT NULL,
  call_id   uuid NOT NULL,
  amount    bigint NOT NULL,
  PRIMARY KEY (tenant_id, call_id)
);

-- ---------------------------------------------------------------- drawing

-- Take a slice of the window around `at` for a worker: `need` at least, or nothing; what calls are `waiting` for, if there is as much; `want` if
-- there is plenty. The nearer the limit, the smaller the slice, so that what other workers could use does not lie idle in this one's
-- memory.
CREATE FUNCTION tollgate_lease(tenant uuid, budget uuid, at timestamptz, starts timestamptz, ends timestamptz, counts_from timestamptz,
                               worker uuid, lease uuid, lowest uuid, need bigint, waiting bigint, want bigint, seconds float8,
                               OUT amount bigint, OUT remaining bigint, OUT idle numeric, OUT until timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  most numeric;
  used numeric := 0;
  part numeric;
  begun record;
  rolling boolean;
BEGIN
  -- One at a time: a window that another has made and not committed would be neither seen nor waited for.
  PERFORM FROM budgets b WHERE b.tenant_id = tenant AND b.budget_id = budget FOR NO KEY UPDATE;
  -- A window that has begun goes on to its end, also when the tenant has moved to another time zone meanwhile.
  IF counts_from = starts THEN
    SELECT w.starts_at, w.ends_at INTO begun FROM budget_windows w
    WHERE w.tenant_id = tenant AND w.budget_id = budget AND w.starts_at <= at AND w.ends_at > at ORDER BY w.starts_at LIMIT 1;
    IF FOUND THEN
      starts := begun.starts_at; ends := begun.ends_at; counts_from := begun.starts_at;
    END IF;
  END IF;
  until := ends;
  INSERT INTO budget_windows (tenant_id, budget_id, starts_at, ends_at)
  SELECT tenant, budget, starts, ends WHERE EXISTS (SELECT FROM budgets b WHERE b.tenant_id = tenant AND b.budget_id = budget)
  ON CONFLICT DO NOTHING;
  -- Windows that count together are locked in one order. Later parts of a rolling budget count as well: a clock may be behind.
  rolling := counts_from <> starts;
  FOR part IN SELECT w.granted FROM budget_windows w
              WHERE w.tenant_id = tenant AND w.budget_id = budget AND w.starts_at >= counts_from AND (rolling OR w.starts_at = starts)
              ORDER BY w.starts_at FOR NO KEY UPDATE LOOP
    used := used + part;
  END LOOP;
  SELECT CASE b.enforcement WHEN 'hard' THEN b.limit_picos ELSE 9000000000000000000 + used END INTO most
  FROM budgets b WHERE b.tenant_id = tenant AND b.budget_id = budget AND b.deleted_at IS NULL;
  -- It was deleted a moment ago: the worker hears of that as well.
  most := COALESCE(most, 9000000000000000000 + used);
  remaining := GREATEST(most - used, 0);
  idle := 0;
  IF remaining < need THEN
    amount := 0;
    SELECT COALESCE(sum(l.amount), 0) INTO idle FROM budget_leases l
    WHERE l.tenant_id = tenant AND l.budget_id = budget AND l.starts_at >= counts_from AND (rolling OR l.starts_at = starts)
      AND l.closed_at IS NULL AND l.worker_id <> worker;
    RETURN;
  END IF;
  amount := GREATEST(need, LEAST(waiting, remaining), LEAST(want, remaining / 16));
  UPDATE budget_windows w SET granted = granted + amount WHERE w.tenant_id = tenant AND w.budget_id = budget AND w.starts_at = starts;
  INSERT INTO budget_leases (tenant_id, lease_id, budget_id, starts_at, worker_id, amount, floor, expires_at)
  VALUES (tenant, lease, budget, starts, worker, amount, lowest, clock_timestamp() + make_interval(secs => seconds));
  remaining := remaining - amount;
END $$;

-- Hold these leases open until the transaction that draws from them ends. KEY SHARE: who renews one does not wait, who closes one does.
CREATE FUNCTION tollgate_hold_leases(wanted uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE held integer;
BEGIN
  IF cardinality(wanted) = 0 THEN
    RETURN;
  END IF;
  SELECT count(*) INTO held FROM (
    SELECT FROM budget_leases WHERE lease_id = ANY(wanted) AND closed_at IS NULL AND expires_at > clock_timestamp() FOR KEY SHARE) l;
  IF held <> cardinality(wanted) THEN
    RAISE EXCEPTION 'a lease of a budget has ended' USING ERRCODE = 'TG001';
  END IF;
END $$;

-- Those of a worker's leases that are still its own, with more time.
CREATE FUNCTION tollgate_renew_leases(worker uuid, wanted uuid[], seconds float8) RETURNS SETOF uuid
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  UPDATE budget_leases SET expires_at = clock_timestamp() + make_interval(secs => seconds)
  WHERE lease_id = ANY(wanted) AND worker_id = worker AND closed_at IS NULL AND expires_at > clock_timestamp()
  RETURNING lease_id
$$;

-- Close a lease and give back what was not drawn. `drawn`: null where that has to be read from the rows. False: it was closed.
CREATE FUNCTION tollgate_close_lease(lease uuid, drawn bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  l budget_leases;
BEGIN
  -- Waits for the transactions that draw from it; what follows sees their rows.
  SELECT * INTO l FROM budget_leases WHERE lease_id = lease AND closed_at IS NULL FOR UPDATE;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  IF drawn IS NULL THEN
    SELECT COALESCE(sum(e.quoted_picos), 0) INTO drawn FROM tool_call_events e
    WHERE e.tenant_id = l.tenant_id AND e.call_id >= l.floor AND e.kind = 0 AND e.leases @> ARRAY[lease];
  END IF;
  UPDATE budget_leases SET closed_at = clock_timestamp() WHERE lease_id = lease;
  UPDATE budget_windows SET granted = granted - (l.amount - drawn)
  WHERE tenant_id = l.tenant_id AND budget_id = l.budget_id AND starts_at = l.starts_at AND l.amount <> drawn;
  RETURN true;
END $$;

-- Leases whose worker has not renewed them.
CREATE FUNCTION tollgate_expired_leases(most integer) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT lease_id FROM budget_leases WHERE closed_at IS NULL AND expires_at < clock_timestamp() ORDER BY expires_at LIMIT most
$$;

-- Ask the other workers to give back what they hold of a budget and do not need at once.
CREATE FUNCTION tollgate_recall(budget uuid) RETURNS void LANGUAGE sql AS $$ SELECT pg_notify('tollgate_recall', budget::text) $$;

-- ---------------------------------------------------------------- settling, in the sealer's transaction

-- Settle the calls whose ends have just been given their place in the log. Each is settled once: by the batch that wrote it, which a
-- row knows by its transaction; another batch that names it again, because its writer was in doubt, does not count.
-- Returns the windows that have moved.
CREATE FUNCTION tollgate_settle(tenants uuid[], calls uuid[], kinds smallint[], xids text[])
RETURNS TABLE (tenant_id uuid, budget_id uuid, starts_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  -- Of tenants without budgets nothing is looked up.
  WITH budgeted AS MATERIALIZED (
    SELECT n.tenant, n.call, n.kind, n.xid FROM UNNEST(tenants, calls, kinds, xids) AS n(tenant, call, kind, xid)
    WHERE EXISTS (SELECT FROM budgets b WHERE b.tenant_id = n.tenant)),
  ended AS MATERIALIZED (
    SELECT i.tenant_id, i.call_id, n.kind, i.leases, i.quoted_picos AS quoted, e.amount_picos AS amount
    FROM budgeted n
    JOIN tool_call_events i ON i.tenant_id = n.tenant AND i.call_id = n.call AND i.kind = 0 AND i.leases IS NOT NULL
    JOIN tool_call_events e ON e.tenant_id = n.tenant AND e.call_id = n.call AND e.kind = n.kind AND e.xmin = n.xid::xid8::xid),
  -- A resolution counts unless the truth is known already; then the truth is or will be sealed, and counts.
  resolved AS (
    INSERT INTO resolved_calls (tenant_id, call_id, amount)
    SELECT n.tenant_id, n.call_id, n.amount FROM ended n
    WHERE n.kind = 2 AND NOT EXISTS (SELECT FROM tool_call_events c WHERE c.tenant_id = n.tenant_id AND c.call_id = n.call_id AND c.kind = 1)
    ON CONFLICT DO NOTHING RETURNING resolved_calls.tenant_id, resolved_calls.call_id),
  counted AS (
    SELECT n.leases, n.amount, n.amount - n.quoted AS difference FROM ended n JOIN resolved r USING (tenant_id, call_id) WHERE n.kind = 2
    UNION ALL
    SELECT n.leases, n.amount - COALESCE(r.amount, 0), n.amount - COALESCE(r.amount, n.quoted)
    FROM ended n LEFT JOIN resolved_calls r USING (tenant_id, call_id) WHERE n.kind = 1),
  sums AS (
    SELECT l.tenant_id, l.budget_id, l.starts_at, sum(c.amount) AS spent, sum(c.difference) AS difference
    FROM counted c CROSS JOIN UNNEST(c.leases) AS d(lease) JOIN budget_leases l ON l.lease_id = d.lease
    GROUP BY l.tenant_id, l.budget_id, l.starts_at),
  locked AS MATERIALIZED (
    SELECT w.tenant_id, w.budget_id, w.starts_at FROM budget_windows w
    WHERE (w.tenant_id, w.budget_id, w.starts_at) IN (SELECT s.tenant_id, s.budget_id, s.starts_at FROM sums s)
    ORDER BY w.tenant_id, w.budget_id, w.starts_at FOR NO KEY UPDATE),
  moved AS (
    UPDATE budget_windows w SET granted = w.granted + s.difference, spent = w.spent + s.spent
    FROM locked k JOIN sums s USING (tenant_id, budget_id, starts_at)
    WHERE w.tenant_id = k.tenant_id AND w.budget_id = k.budget_id AND w.starts_at = k.starts_at
    RETURNING w.tenant_id, w.budget_id, w.starts_at)
  SELECT m.tenant_id, m.budget_id, m.starts_at FROM moved m;
END $$;

-- The thresholds that these windows have passed and that nobody has been told of. The parts of a rolling budget count together, up to
-- the one that is asked about.
CREATE FUNCTION tollgate_passed(tenants uuid[], budgets uuid[], starts timestamptz[])
RETURNS TABLE (tenant_id uuid, budget_id uuid, starts_at timestamptz, ends_at timestamptz, threshold smallint, spent numeric, limit_picos bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT b.tenant_id, b.budget_id, n.starts, w.ends_at, t.percent, c.spent, b.limit_picos
  FROM UNNEST(tenants, budgets, starts) AS n(tenant, budget, starts)
  JOIN budgets b ON b.tenant_id = n.tenant AND b.budget_id = n.budget
  JOIN budget_windows w ON w.tenant_id = n.tenant AND w.budget_id = n.budget AND w.starts_at = n.starts
  CROSS JOIN LATERAL (
    SELECT sum(p.spent) AS spent FROM budget_windows p
    WHERE p.tenant_id = n.tenant AND p.budget_id = n.budget AND p.starts_at <= n.starts
      AND p.ends_at > CASE WHEN b.rolling_days IS NULL THEN n.starts ELSE w.ends_at - make_interval(days => b.rolling_days) END
      AND (b.rolling_days IS NOT NULL OR p.starts_at = n.starts)) c
  CROSS JOIN LATERAL UNNEST(b.thresholds) AS t(percent)
  WHERE c.spent * 100 >= t.percent::numeric * b.limit_picos AND NOT EXISTS (
    SELECT FROM budget_windows p WHERE p.tenant_id = n.tenant AND p.budget_id = n.budget AND t.percent = ANY (p.alerted) AND p.starts_at <= n.starts
      AND (p.starts_at = n.starts OR p.ends_at > w.ends_at - make_interval(days => b.rolling_days)))
  ORDER BY 1, 2, 3, 5
$$;

CREATE FUNCTION tollgate_alerted(tenant uuid, budget uuid, starts timestamptz, percent smallint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  UPDATE budget_windows SET alerted = alerted || percent WHERE tenant_id = tenant AND budget_id = budget AND starts_at = starts
$$;

-- Leases that nobody can draw from or settle by any more, and what was kept for workers that might turn up again.
CREATE FUNCTION tollgate_forget_leases(days integer) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  DELETE FROM budget_leases WHERE closed_at < clock_timestamp() - make_interval(days => days);
  DELETE FROM resolved_calls WHERE call_id < tollgate_uuid_floor(clock_timestamp() - make_interval(days => days))
$$;

-- ---------------------------------------------------------------- who may do what

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['budgets', 'budget_windows', 'budget_leases', 'resolved_calls'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY one_tenant ON %I TO tollgate_app USING (tenant_id = (SELECT current_setting(''app.tenant_id'')::uuid))', t);
    EXECUTE format('CREATE POLICY owner_counts ON %I TO %I USING (true) WITH CHECK (true)', t, CURRENT_USER);
  END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE ON budgets TO tollgate_app;
GRANT SELECT ON budget_windows, budget_leases, resolved_calls TO tollgate_app;

REVOKE ALL ON FUNCTION tollgate_lease(uuid, uuid, timestamptz, timestamptz, timestamptz, timestamptz, uuid, uuid, uuid, bigint, bigint, bigint, float8),
  tollgate_hold_leases(uuid[]), tollgate_renew_leases(uuid, uuid[], float8), tollgate_close_lease(uuid, bigint),
  tollgate_expired_leases(integer), tollgate_recall(uuid), tollgate_settle(uuid[], uuid[], smallint[], text[]),
  tollgate_passed(uuid[], uuid[], timestamptz[]), tollgate_alerted(uuid, uuid, timestamptz, smallint), tollgate_forget_leases(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate_lease(uuid, uuid, timestamptz, timestamptz, timestamptz, timestamptz, uuid, uuid, uuid, bigint, bigint, bigint, float8),
  tollgate_renew_leases(uuid, uuid[], float8), tollgate_close_lease(uuid, bigint), tollgate_expired_leases(integer),
  tollgate_recall(uuid), tollgate_forget_leases(integer) TO tollgate_control;
GRANT EXECUTE ON FUNCTION tollgate_hold_leases(uuid[]) TO tollgate_writer;
GRANT EXECUTE ON FUNCTION tollgate_settle(uuid[], uuid[], smallint[], text[]), tollgate_passed(uuid[], uuid[], timestamptz[]),
  tollgate_alerted(uuid, uuid, timestamptz, smallint) TO tollgate_sealer;
