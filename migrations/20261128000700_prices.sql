-- Prices as finance needs them: units, tiers by volume, a tenant's default, corrections, and the cost of tokens.

-- ---------------------------------------------------------------- prices

ALTER TABLE prices
  DROP CONSTRAINT prices_unit_check,
  DROP CONSTRAINT prices_check,
  -- Both null: from here on the target has no price of its own.
  ALTER amount_picos DROP NOT NULL,
  ALTER unit DROP NOT NULL,
  -- By volume: the first call of each tier, and its amount; `amount_picos` is that of the first.
  ADD tier_from bigint[],
  ADD tier_picos bigint[],
  -- No call is charged more.
  ADD max_picos bigint CHECK (max_picos >= 0),
  ADD CONSTRAINT prices_unit CHECK (unit IN ('call', 'successful_call', 'kb', 'second')),
  -- Neither: the tenant's default.
  ADD CONSTRAINT prices_target CHECK (num_nonnulls(tool_id, upstream_id) <= 1),
  ADD CONSTRAINT prices_rate CHECK ((amount_picos IS NULL) = (unit IS NULL) AND (unit IS NOT NULL OR num_nonnulls(tier_from, max_picos) = 0)
    AND (tier_from IS NULL) = (tier_picos IS NULL) AND cardinality(tier_from) IS NOT DISTINCT FROM cardinality(tier_picos));
CREATE UNIQUE INDEX prices_of_tenant ON prices (tenant_id, effective_from) WHERE tool_id IS NULL AND upstream_id IS NULL;

-- How many calls a month has had under prices by volume, by what they are priced by: a tool, an upstream, or the nil id for the
-- tenant's default. The month begins in the tenant's time zone.
CREATE TABLE price_volumes (
  tenant_id uuid NOT NULL REFERENCES tenants,
  target    uuid NOT NULL,
  month     date NOT NULL,
  calls     bigint NOT NULL,
  PRIMARY KEY (tenant_id, target, month)
) WITH (fillfactor = 20); -- updated all the time, in place

-- The first of `wanted` numbers that no other call has.
-- What the last milliseconds drew is lost when the database's machine dies; then so is every row that names one of these numbers, because
-- the log that would bring it back holds the drawing before the row.
CREATE FUNCTION tollgate_number_calls(tenant uuid, priced_by uuid, of_month date, wanted integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  last bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  INSERT INTO price_volumes AS v (tenant_id, target, month, calls) VALUES (tenant, priced_by, of_month, wanted)
  ON CONFLICT (tenant_id, target, month) DO UPDATE SET calls = v.calls + wanted
  RETURNING v.calls INTO last;
  RETURN last - wanted + 1;
END $$;

-- ---------------------------------------------------------------- the price in a call's row

-- On an intent: what of the price applied. `quoted_picos` is the most that the call can cost.
ALTER TABLE tool_call_events
  ADD unit text,
  ADD unit_picos bigint,
  ADD tier smallint,
  -- Among the calls of the month that the same target prices.
  ADD call_number bigint;

CREATE OR REPLACE VIEW tool_calls WITH (security_invoker = true) AS
SELECT i.tenant_id, i.call_id, i.llm_request_id, i.origin, i.script_run_id, i.sequence, i.key_id, i.team_id,
       i.upstream_id, i.upstream_name, i.tool_id, i.tool_name, i.definition_sha256, i.decision, i.reason,
       COALESCE(d.outcome, i.outcome) AS outcome,
       CASE WHEN d.outcome IS NULL THEN i.error ELSE d.error END AS error,
       i.at AS opened_at,
       COALESCE(d.at, CASE WHEN i.outcome IS NOT NULL THEN i.at END) AS closed_at,
       COALESCE(d.latency_us, i.latency_us) AS latency_us,
       i.price_id, COALESCE(d.amount_picos, i.amount_picos) AS amount_picos, i.currency,
       i.worker_id, i.arguments_sha256, d.result_sha256, i.arguments_form, d.result_form, i.approval_id,
       i.unit, i.unit_picos, i.tier, i.call_number
FROM tool_call_events i
LEFT JOIN LATERAL (
  SELECT e.outcome, e.error, e.at, e.latency_us, e.amount_picos, e.result_sha256, e.result_form FROM tool_call_events e
  WHERE e.tenant_id = i.tenant_id AND e.call_id = i.call_id AND e.kind > 0 ORDER BY e.kind LIMIT 1) d ON true
WHERE i.kind = 0;

-- ---------------------------------------------------------------- calls of which only their beginning is known

-- A call that the sweeper resolved may be charged less than it was quoted at, and its own worker may still turn up with a truth that is
-- more. So its whole quote stays granted until then, or until nobody can turn up any more: `granted` grows in `tollgate_lease` alone.
-- As it was, but that a resolution gives nothing back, and the truth gives back what it did not cost of the quote.
CREATE OR REPLACE FUNCTION tollgate_settle(tenants uuid[], calls uuid[], kinds smallint[], xids text[])
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
    SELECT n.leases, n.amount, 0::bigint AS difference FROM ended n JOIN resolved r USING (tenant_id, call_id) WHERE n.kind = 2
    UNION ALL
    SELECT n.leases, n.amount - COALESCE(r.amount, 0), n.amount - n.quoted
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

-- Leases that nobody can draw from or settle by any more, and what was kept for workers that might turn up again: the rest of the quotes
-- of their calls goes back first. A call whose truth is there, sealed or not, gives back by that.
CREATE OR REPLACE FUNCTION tollgate_forget_leases(days integer) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  WITH gone AS (
    DELETE FROM resolved_calls WHERE call_id < tollgate_uuid_floor(clock_timestamp() - make_interval(days => days))
    RETURNING tenant_id, call_id, amount),
  back AS (
    SELECT l.tenant_id, l.budget_id, l.starts_at, sum(i.quoted_picos - g.amount) AS rest
    FROM gone g
    JOIN tool_call_events i ON i.tenant_id = g.tenant_id AND i.call_id = g.call_id AND i.kind = 0 AND i.quoted_picos > g.amount
    CROSS JOIN UNNEST(i.leases) AS d(lease) JOIN budget_leases l ON l.lease_id = d.lease
    WHERE NOT EXISTS (SELECT FROM tool_call_events c WHERE c.tenant_id = g.tenant_id AND c.call_id = g.call_id AND c.kind = 1)
    GROUP BY l.tenant_id, l.budget_id, l.starts_at)
  UPDATE budget_windows w SET granted = w.granted - b.rest FROM back b
  WHERE w.tenant_id = b.tenant_id AND w.budget_id = b.budget_id AND w.starts_at = b.starts_at;
  -- A lease was open when its calls began: those that it still had to answer for are older than it, and gone above. An hour more, because
  -- calls have their time from the clock of their worker.
  DELETE FROM budget_leases WHERE closed_at < clock_timestamp() - make_interval(days => days, hours => 1)
$$;

-- ---------------------------------------------------------------- corrections

-- What is given back of what calls cost. Nothing is taken away from their rows.
CREATE TABLE credits (
  tenant_id    uuid NOT NULL REFERENCES tenants,
  credit_id    uuid NOT NULL,
  -- The call that it corrects. Whose it was is copied from its row, so that reports can tell.
  call_id      uuid,
  key_id       uuid,
  team_id      uuid,
  upstream_id  uuid,
  tool_id      uuid,
  amount_picos bigint NOT NULL CHECK (amount_picos > 0),
  reason       text NOT NULL,
  created_at   timestamptz NOT NULL,
  created_by   text NOT NULL,
  PRIMARY KEY (tenant_id, credit_id)
);
CREATE INDEX credits_by_call ON credits (tenant_id, call_id) WHERE call_id IS NOT NULL;
CREATE INDEX credits_by_time ON credits (tenant_id, created_at);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON credits FOR EACH ROW EXECUTE FUNCTION tollgate_append_only('rows');

-- ---------------------------------------------------------------- tokens

-- What a tenant sets over the table that ships with the program.
CREATE TABLE llm_prices (
  tenant_id      uuid NOT NULL REFERENCES tenants,
  llm_price_id   uuid NOT NULL,
  provider       text,
  -- A name, or its beginning and '*'.
  model          text NOT NULL,
  -- Decimals per 1,000,000 tokens; null: from here on there is no price of the tenant's own.
  rates          jsonb,
  effective_from timestamptz NOT NULL,
  created_at     timestamptz NOT NULL,
  created_by     text NOT NULL,
  PRIMARY KEY (tenant_id, llm_price_id),
  CHECK (effective_from >= created_at)
);
CREATE UNIQUE INDEX llm_prices_of_model ON llm_prices (tenant_id, COALESCE(provider, ''), model, effective_from);

-- ---------------------------------------------------------------- who may do what

GRANT SELECT, INSERT ON credits, llm_prices TO tollgate_app;
GRANT SELECT ON price_volumes TO tollgate_app;
REVOKE ALL ON FUNCTION tollgate_number_calls(uuid, uuid, date, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate_number_calls(uuid, uuid, date, integer) TO tollgate_control;
DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['credits', 'llm_prices', 'price_volumes'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY one_tenant ON %I TO tollgate_app USING (tenant_id = (SELECT current_setting(''app.tenant_id'')::uuid))', t);
  END LOOP;
  EXECUTE format('CREATE POLICY owner_counts ON price_volumes TO %I USING (true) WITH CHECK (true)', CURRENT_USER);
END $$;
