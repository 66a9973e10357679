-- What a hostile reader found in the rollups: counts that no provider can mean, names that nobody was allowed, months that retention dropped,
-- and a change of time zone that held up the sealer. The functions are those of 20261128001200_rollups.sql, but for what stands here before each.

-- Days before it are cut in a zone of before, and nobody reads them: null where all are cut in the tenant's. A change of zone takes a moment
-- this way, and holds up neither the sealer nor the build; the days are cut in steps.
ALTER TABLE cost_states ADD cut_from date;

-- A sum as far as it can be told: of counts that are absurd, a row's or a sum's, nothing may break that concerns anybody else.
CREATE FUNCTION tollgate_bigint(n numeric) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT (CASE WHEN n > 9223372036854775807 THEN 9223372036854775807 WHEN n < -9223372036854775807 THEN -9223372036854775807 ELSE n END)::bigint
$$;

-- Tokens of one request beyond 2^40 are none that a provider has counted. Nor is a refused request's model one: it is a name that somebody
-- has made up, and whoever makes up ten thousand must not make the reports of all his tenant too large. Batches of the nil writer hold
-- events of admins alone: rows that retention copied in such a transaction were counted long before.
CREATE OR REPLACE FUNCTION tollgate_cost_rows(tenant uuid, low uuid, high uuid, sealed boolean, with_model boolean) RETURNS SETOF tollgate_cost
LANGUAGE plpgsql STABLE SET search_path = public, pg_temp SET enable_nestloop = off AS $$
BEGIN
  -- The range stands on each part of a call: Postgres would not carry it over from the first to the others. Each part is then read once and
  -- they are hashed, also where a range looks as if it had one row: in a nested loop, a quarter of an hour of a busy tenant is its square.
  RETURN QUERY EXECUTE $q$
    WITH pending AS MATERIALIZED (SELECT b.xid::xid AS xid FROM audit_batches b
      WHERE $4 AND b.writer_id <> '00000000-0000-0000-0000-000000000000'),
    calls AS (
      SELECT tollgate_quarter(i.call_id) AS quarter, i.tool_id, i.upstream_id, i.key_id, i.team_id,
             COALESCE(c.outcome, r.outcome, i.outcome) AS outcome,
             $q$ || CASE WHEN with_model THEN '(SELECT l.model FROM llm_requests l WHERE l.tenant_id = $1 AND l.llm_request_id = i.llm_request_id
               AND NOT EXISTS (SELECT FROM llm_forwards d WHERE d.tenant_id = $1 AND d.llm_request_id = i.llm_request_id AND d.decision = ''denied''))'
                                 ELSE 'NULL::text' END || $q$ AS model, i.origin, i.tool_name, i.upstream_name,
             CASE WHEN c.call_id IS NOT NULL THEN COALESCE(c.amount_picos, i.amount_picos) ELSE COALESCE(r.amount_picos, i.amount_picos) END AS amount,
             tollgate_latency_bucket(CASE WHEN c.call_id IS NOT NULL THEN COALESCE(c.latency_us, i.latency_us)
                                          ELSE COALESCE(r.latency_us, i.latency_us) END) AS bucket
      FROM (SELECT * FROM tool_call_events e WHERE e.tenant_id = $1 AND e.call_id >= $2 AND e.call_id < $3 AND e.kind = 0
              AND NOT ($4 AND e.xmin IN (SELECT p.xid FROM pending p))) i
      LEFT JOIN (SELECT * FROM tool_call_events e WHERE e.tenant_id = $1 AND e.call_id >= $2 AND e.call_id < $3 AND e.kind = 1
              AND NOT ($4 AND e.xmin IN (SELECT p.xid FROM pending p))) c ON c.call_id = i.call_id
      LEFT JOIN (SELECT * FROM tool_call_events e WHERE e.tenant_id = $1 AND e.call_id >= $2 AND e.call_id < $3 AND e.kind = 2
              AND NOT ($4 AND e.xmin IN (SELECT p.xid FROM pending p))) r ON r.call_id = i.call_id),
    buckets AS (
      SELECT quarter, tool_id, upstream_id, key_id, team_id, outcome, model, origin, max(tool_name) AS tool_name,
             max(upstream_name) AS upstream_name, count(*) AS n, sum(amount) AS amount, bucket
      FROM calls GROUP BY quarter, tool_id, upstream_id, key_id, team_id, outcome, model, origin, bucket)
    SELECT $1, quarter, tool_id, upstream_id, key_id, team_id, outcome, model, origin, CASE WHEN tool_id IS NOT NULL THEN max(tool_name) END,
           max(upstream_name), sum(n)::bigint, COALESCE(sum(amount), 0)::numeric,
           COALESCE(string_agg(int2send(bucket) || int4send(n::integer), ''::bytea) FILTER (WHERE bucket IS NOT NULL), ''), 0::bigint,
           0::bigint, 0::numeric, 0::bigint, 0::bigint, 0::bigint, 0::bigint
    FROM buckets GROUP BY quarter, tool_id, upstream_id, key_id, team_id, outcome, model, origin
    UNION ALL
    SELECT $1, tollgate_quarter(q.llm_request_id), NULL, NULL, q.key_id, q.team_id, NULL,
           CASE WHEN $5 AND f.decision IS DISTINCT FROM 'denied' THEN q.model END, q.origin, NULL, NULL,
           0::bigint, 0::numeric, ''::bytea, COALESCE(sum(q.prompt_tokens_avoided), 0)::bigint, count(f.llm_request_id),
           COALESCE(sum(COALESCE(c.amount_picos, r.amount_picos)), 0)::numeric,
           COALESCE(sum(LEAST(COALESCE(c.input_tokens, r.input_tokens, 0), 1099511627776)), 0)::bigint,
           COALESCE(sum(LEAST(COALESCE(c.cached_tokens, r.cached_tokens, 0), 1099511627776)), 0)::bigint,
           COALESCE(sum(LEAST(COALESCE(c.output_tokens, r.output_tokens, 0), 1099511627776)), 0)::bigint,
           COALESCE(sum(LEAST(COALESCE(c.reasoning_tokens, r.reasoning_tokens, 0), 1099511627776)), 0)::bigint
    FROM (SELECT * FROM llm_requests q WHERE q.tenant_id = $1 AND q.llm_request_id >= $2 AND q.llm_request_id < $3
            AND NOT ($4 AND q.xmin IN (SELECT p.xid FROM pending p))) q
    LEFT JOIN (SELECT f.llm_request_id, f.decision FROM llm_forwards f WHERE f.tenant_id = $1 AND f.llm_request_id >= $2 AND f.llm_request_id < $3) f
      ON f.llm_request_id = q.llm_request_id
    LEFT JOIN (SELECT * FROM llm_request_ends e WHERE e.tenant_id = $1 AND e.llm_request_id >= $2 AND e.llm_request_id < $3 AND e.kind = 1
            AND NOT ($4 AND e.xmin IN (SELECT p.xid FROM pending p))) c ON c.llm_request_id = f.llm_request_id
    LEFT JOIN (SELECT * FROM llm_request_ends e WHERE e.tenant_id = $1 AND e.llm_request_id >= $2 AND e.llm_request_id < $3 AND e.kind = 2
            AND NOT ($4 AND e.xmin IN (SELECT p.xid FROM pending p))) r ON r.llm_request_id = f.llm_request_id
    WHERE q.prompt_tokens_avoided IS NOT NULL OR f.llm_request_id IS NOT NULL
    GROUP BY 2, 5, 6, 8, 9$q$
  USING tenant, low, high, sealed, with_model;
END $$;

CREATE OR REPLACE FUNCTION tollgate_cost_deltas(tenants uuid[], ids uuid[], kinds smallint[], xids text[]) RETURNS SETOF tollgate_cost
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  WITH named AS MATERIALIZED (
    SELECT n.tenant, n.id, n.kind >= 3 AS is_request, array_agg(n.kind || ':' || n.xid::xid8::xid) AS marks
    FROM UNNEST(tenants, ids, kinds, xids) AS n(tenant, id, kind, xid)
    JOIN cost_states s ON s.tenant_id = n.tenant AND n.id >= s.counted_from
    GROUP BY 1, 2, 3),
  pending AS MATERIALIZED (SELECT b.xid::xid AS xid FROM audit_batches b
    WHERE b.writer_id <> '00000000-0000-0000-0000-000000000000'),
  events AS MATERIALIZED (
    SELECT n.tenant, n.id, e.event, e.fresh FROM named n
    CROSS JOIN LATERAL (SELECT e AS event, e.xmin AS xmin, (e.kind || ':' || e.xmin) = ANY (n.marks) AS fresh FROM tool_call_events e
                        WHERE e.tenant_id = n.tenant AND e.call_id = n.id OFFSET 0) e
    WHERE NOT n.is_request AND (e.fresh OR NOT (e.xmin IN (SELECT p.xid FROM pending p)))),
  -- The first of its ends is the truth, as in the view.
  calls AS MATERIALIZED (
    SELECT tenant, id, (array_agg(event) FILTER (WHERE (event).kind = 0))[1] AS i,
           bool_or(fresh) FILTER (WHERE (event).kind = 0) AS is_new,
           (array_agg(event ORDER BY (event).kind) FILTER (WHERE (event).kind > 0))[1] AS d,
           (array_agg(event ORDER BY (event).kind) FILTER (WHERE (event).kind > 0 AND NOT fresh))[1] AS b
    FROM events GROUP BY tenant, id),
  signed AS (
    SELECT c.tenant, tollgate_quarter(c.id) AS quarter, (c.i).tool_id, (c.i).upstream_id, (c.i).key_id, (c.i).team_id, v.outcome, c.model,
           (c.i).origin, (c.i).tool_name, (c.i).upstream_name, v.sign, v.sign * v.amount AS amount, tollgate_latency_bucket(v.latency) AS bucket
    -- Looked up, and never joined: however many requests there are.
    FROM (SELECT c.*, (SELECT CASE WHEN l.model IS NOT NULL AND NOT EXISTS (
                         SELECT FROM llm_forwards f WHERE f.tenant_id = c.tenant AND f.llm_request_id = l.llm_request_id AND f.decision = 'denied') THEN l.model END
                       FROM llm_requests l WHERE l.tenant_id = c.tenant AND l.llm_request_id = (c.i).llm_request_id) AS model
          FROM calls c) c
    CROSS JOIN LATERAL (VALUES
      (1, COALESCE((c.d).outcome, (c.i).outcome), COALESCE((c.d).amount_picos, (c.i).amount_picos), COALESCE((c.d).latency_us, (c.i).latency_us)),
      (-1, COALESCE((c.b).outcome, (c.i).outcome), COALESCE((c.b).amount_picos, (c.i).amount_picos), COALESCE((c.b).latency_us, (c.i).latency_us)))
      AS v(sign, outcome, amount, latency)
    WHERE (c.i).call_id IS NOT NULL AND (v.sign = 1 OR NOT c.is_new)),
  buckets AS (
    SELECT tenant, quarter, tool_id, upstream_id, key_id, team_id, outcome, model, origin, max(tool_name) AS tool_name,
           max(upstream_name) AS upstream_name, bucket, sum(sign) AS n, sum(amount) AS amount
    FROM signed GROUP BY tenant, quarter, tool_id, upstream_id, key_id, team_id, outcome, model, origin, bucket),
  -- The request and what was forwarded are rows of one transaction and one line of the log. An end counts with its request.
  requests AS MATERIALIZED (
    SELECT n.tenant, n.id, q.key_id, q.team_id, CASE WHEN f.decision IS DISTINCT FROM 'denied' THEN q.model END AS model, q.origin,
           q.prompt_tokens_avoided AS tokens, q.fresh, f.forwarded, e.d,
           CASE WHEN NOT q.fresh THEN e.b END AS b
    FROM named n
    CROSS JOIN LATERAL (SELECT q.*, q.xmin AS written_by, ('3:' || q.xmin) = ANY (n.marks) AS fresh FROM llm_requests q
                        WHERE q.tenant_id = n.tenant AND q.llm_request_id = n.id OFFSET 0) q
    -- Most requests are minted, and are not looked for.
    LEFT JOIN LATERAL (SELECT 1 AS forwarded, f.decision FROM llm_forwards f
                       WHERE q.origin = 'llm' AND f.tenant_id = n.tenant AND f.llm_request_id = n.id OFFSET 0) f ON true
    LEFT JOIN LATERAL (
      SELECT (array_agg(e.event ORDER BY (e.event).kind))[1] AS d,
             (array_agg(e.event ORDER BY (e.event).kind) FILTER (WHERE NOT e.fresh))[1] AS b
      FROM (SELECT e AS event, e.xmin AS xmin, ((e.kind + 3) || ':' || e.xmin) = ANY (n.marks) AS fresh FROM llm_request_ends e
            WHERE f.forwarded = 1 AND e.tenant_id = n.tenant AND e.llm_request_id = n.id OFFSET 0) e
      WHERE e.fresh OR NOT (e.xmin IN (SELECT p.xid FROM pending p))) e ON true
    WHERE n.is_request AND (q.fresh OR NOT (q.written_by IN (SELECT p.xid FROM pending p))))
  SELECT tenant, quarter, tool_id, upstream_id, key_id, team_id, outcome, model, origin, CASE WHEN tool_id IS NOT NULL THEN max(tool_name) END,
         max(upstream_name), sum(n)::bigint, COALESCE(sum(amount), 0)::numeric,
         COALESCE(string_agg(int2send(bucket) || int4send(n::integer), ''::bytea) FILTER (WHERE bucket IS NOT NULL AND n <> 0), ''), 0::bigint,
         0::bigint, 0::numeric, 0::bigint, 0::bigint, 0::bigint, 0::bigint
  FROM buckets GROUP BY tenant, quarter, tool_id, upstream_id, key_id, team_id, outcome, model, origin
  HAVING sum(n) <> 0 OR COALESCE(sum(amount), 0) <> 0 OR bool_or(bucket IS NOT NULL AND n <> 0)
  UNION ALL
  SELECT * FROM (
    SELECT r.tenant, tollgate_quarter(r.id), NULL::uuid, NULL::uuid, r.key_id, r.team_id, NULL::text, r.model, r.origin, NULL::text, NULL::text,
           0::bigint, 0::numeric, ''::bytea, COALESCE(sum(r.tokens) FILTER (WHERE r.fresh), 0)::bigint AS tokens,
           COALESCE(sum(r.forwarded) FILTER (WHERE r.fresh), 0)::bigint AS requests,
           sum(COALESCE((r.d).amount_picos, 0) - COALESCE((r.b).amount_picos, 0))::numeric AS llm_amount,
           sum(LEAST(COALESCE((r.d).input_tokens, 0), 1099511627776) - LEAST(COALESCE((r.b).input_tokens, 0), 1099511627776))::bigint AS input_tokens,
           sum(LEAST(COALESCE((r.d).cached_tokens, 0), 1099511627776) - LEAST(COALESCE((r.b).cached_tokens, 0), 1099511627776))::bigint AS cached_tokens,
           sum(LEAST(COALESCE((r.d).output_tokens, 0), 1099511627776) - LEAST(COALESCE((r.b).output_tokens, 0), 1099511627776))::bigint AS output_tokens,
           sum(LEAST(COALESCE((r.d).reasoning_tokens, 0), 1099511627776) - LEAST(COALESCE((r.b).reasoning_tokens, 0), 1099511627776))::bigint AS reasoning_tokens
    FROM requests r GROUP BY 1, 2, 5, 6, 8, 9) x
  WHERE (x.tokens, x.requests, x.llm_amount, x.input_tokens, x.cached_tokens, x.output_tokens, x.reasoning_tokens) <> (0, 0, 0, 0, 0, 0, 0)
$$;

-- ---------------------------------------------------------------- keeping them

CREATE OR REPLACE FUNCTION tollgate_cost_add(costs tollgate_cost[]) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  WITH faces AS (
    SELECT c.tenant_id, f.face, c.quarter, s.zone,
           CASE WHEN f.face IN (0, 1, 3) THEN c.tool_id END AS tool_id, CASE WHEN f.face IN (0, 1, 3) THEN c.upstream_id END AS upstream_id,
           CASE WHEN f.face IN (0, 2, 3) THEN c.key_id END AS key_id, CASE WHEN f.face IN (0, 2, 3) THEN c.team_id END AS team_id, c.outcome,
           CASE WHEN f.face IN (0, 2, 4) THEN c.model END AS model, CASE WHEN f.face IN (0, 2, 4) THEN c.origin END AS origin,
           CASE WHEN f.face IN (0, 1, 3) THEN c.tool_name END AS tool_name,
           CASE WHEN f.face IN (0, 1, 3) THEN c.upstream_name END AS upstream_name, c.calls, c.amount, c.latency, c.tokens,
           CASE WHEN f.face IN (2, 4) THEN c.requests END AS requests, CASE WHEN f.face IN (2, 4) THEN c.llm_amount END AS llm_amount,
           CASE WHEN f.face IN (2, 4) THEN c.input_tokens END AS input_tokens, CASE WHEN f.face IN (2, 4) THEN c.cached_tokens END AS cached_tokens,
           CASE WHEN f.face IN (2, 4) THEN c.output_tokens END AS output_tokens, CASE WHEN f.face IN (2, 4) THEN c.reasoning_tokens END AS reasoning_tokens
    FROM UNNEST(costs) c JOIN cost_states s ON s.tenant_id = c.tenant_id
    CROSS JOIN (VALUES (0::smallint), (1::smallint), (2::smallint), (3::smallint), (4::smallint)) f(face)
    WHERE f.face IN (2, 4) OR c.calls <> 0 OR c.amount <> 0 OR c.latency <> ''),
  summed AS MATERIALIZED (
    SELECT tenant_id, face, quarter, zone, tool_id, upstream_id, key_id, team_id, outcome, model, origin, max(tool_name) AS tool_name,
           max(upstream_name) AS upstream_name, tollgate_cost_cell(tool_id, upstream_id, key_id, team_id, outcome, model, origin) AS cell,
           tollgate_bigint(sum(calls)) AS calls, sum(amount) AS amount, string_agg(latency, ''::bytea) AS latency, tollgate_bigint(sum(tokens)) AS tokens,
           tollgate_bigint(sum(requests)) AS requests, sum(llm_amount) AS llm_amount,
           tollgate_bigint(sum(input_tokens)) AS input_tokens, tollgate_bigint(sum(cached_tokens)) AS cached_tokens, tollgate_bigint(sum(output_tokens)) AS output_tokens,
           tollgate_bigint(sum(reasoning_tokens)) AS reasoning_tokens
    FROM faces GROUP BY tenant_id, face, quarter, zone, tool_id, upstream_id, key_id, team_id, outcome, model, origin),
  cells AS (
    INSERT INTO cost_cells (tenant_id, face, cell, tool_id, upstream_id, key_id, team_id, outcome, model, origin, tool_name, upstream_name)
    SELECT DISTINCT ON (tenant_id, face, cell) tenant_id, face, cell, tool_id, upstream_id, key_id, team_id, outcome, model, origin,
           tool_name, upstream_name
    FROM summed ORDER BY tenant_id, face, cell
    ON CONFLICT DO NOTHING),
  quarters AS (
    INSERT INTO cost_quarters AS k (tenant_id, face, quarter, cell, calls, amount, latency, tokens,
      requests, llm_amount, input_tokens, cached_tokens, output_tokens, reasoning_tokens)
    SELECT tenant_id, face, quarter, cell, calls, amount, CASE WHEN length(latency) > 600 THEN tollgate_latency_sum(latency) ELSE latency END, tokens,
           requests, llm_amount, input_tokens, cached_tokens, output_tokens, reasoning_tokens
    FROM summed WHERE face <> 3
    ORDER BY tenant_id, face, quarter, cell
    ON CONFLICT (tenant_id, face, quarter, cell) DO UPDATE SET calls = tollgate_bigint(k.calls::numeric + EXCLUDED.calls), amount = k.amount + EXCLUDED.amount,
      latency = CASE WHEN length(k.latency) / 600 = (length(k.latency) + length(EXCLUDED.latency)) / 600 THEN k.latency || EXCLUDED.latency
                     ELSE tollgate_latency_sum(k.latency || EXCLUDED.latency) END,
      tokens = tollgate_bigint(k.tokens::numeric + EXCLUDED.tokens),
      requests = tollgate_bigint(k.requests::numeric + EXCLUDED.requests), llm_amount = k.llm_amount + EXCLUDED.llm_amount,
      input_tokens = tollgate_bigint(k.input_tokens::numeric + EXCLUDED.input_tokens),
      cached_tokens = tollgate_bigint(k.cached_tokens::numeric + EXCLUDED.cached_tokens),
      output_tokens = tollgate_bigint(k.output_tokens::numeric + EXCLUDED.output_tokens),
      reasoning_tokens = tollgate_bigint(k.reasoning_tokens::numeric + EXCLUDED.reasoning_tokens))
  INSERT INTO cost_days AS k (tenant_id, face, day, cell, calls, amount, latency, tokens,
    requests, llm_amount, input_tokens, cached_tokens, output_tokens, reasoning_tokens)
  SELECT tenant_id, face, (quarter AT TIME ZONE zone)::date AS day, cell, tollgate_bigint(sum(calls)), sum(amount),
         CASE WHEN sum(length(latency)) > 600 THEN tollgate_latency_sum(string_agg(latency, ''::bytea)) ELSE string_agg(latency, ''::bytea) END,
         tollgate_bigint(sum(tokens)), tollgate_bigint(sum(requests)), sum(llm_amount), tollgate_bigint(sum(input_tokens)), tollgate_bigint(sum(cached_tokens)),
         tollgate_bigint(sum(output_tokens)), tollgate_bigint(sum(reasoning_tokens))
  FROM summed WHERE face > 0 GROUP BY tenant_id, face, day, cell ORDER BY tenant_id, face, day, cell
  ON CONFLICT (tenant_id, face, day, cell) DO UPDATE SET calls = tollgate_bigint(k.calls::numeric + EXCLUDED.calls), amount = k.amount + EXCLUDED.amount,
    latency = CASE WHEN length(k.latency) / 600 = (length(k.latency) + length(EXCLUDED.latency)) / 600 THEN k.latency || EXCLUDED.latency
                     ELSE tollgate_latency_sum(k.latency || EXCLUDED.latency) END,
    tokens = tollgate_bigint(k.tokens::numeric + EXCLUDED.tokens),
    requests = tollgate_bigint(k.requests::numeric + EXCLUDED.requests), llm_amount = k.llm_amount + EXCLUDED.llm_amount,
    input_tokens = tollgate_bigint(k.input_tokens::numeric + EXCLUDED.input_tokens),
      cached_tokens = tollgate_bigint(k.cached_tokens::numeric + EXCLUDED.cached_tokens),
    output_tokens = tollgate_bigint(k.output_tokens::numeric + EXCLUDED.output_tokens),
      reasoning_tokens = tollgate_bigint(k.reasoning_tokens::numeric + EXCLUDED.reasoning_tokens);
END $$;

CREATE OR REPLACE FUNCTION tollgate_cost_cut(tenant uuid, first date, last date) RETURNS SETOF cost_days
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  SELECT q.tenant_id, f.face, (q.quarter AT TIME ZONE s.zone)::date AS day, f.cell, tollgate_bigint(sum(q.calls)), sum(q.amount)::numeric(38,0),
         tollgate_latency_sum(string_agg(q.latency, ''::bytea)), tollgate_bigint(sum(q.tokens)), tollgate_bigint(sum(q.requests)),
         sum(q.llm_amount)::numeric(38,0), tollgate_bigint(sum(q.input_tokens)), tollgate_bigint(sum(q.cached_tokens)), tollgate_bigint(sum(q.output_tokens)),
         tollgate_bigint(sum(q.reasoning_tokens))
  FROM cost_states s JOIN cost_quarters q ON q.tenant_id = s.tenant_id
  JOIN (SELECT c.face AS source, c.cell AS from_cell, CASE c.face WHEN 0 THEN 3::smallint ELSE c.face END AS face,
               CASE c.face WHEN 0 THEN tollgate_cost_cell(c.tool_id, c.upstream_id, c.key_id, c.team_id, c.outcome, NULL, NULL) ELSE c.cell END AS cell
        FROM cost_cells c WHERE c.tenant_id = tenant AND c.face <> 3 OFFSET 0) f ON f.source = q.face AND f.from_cell = q.cell
  WHERE s.tenant_id = tenant AND q.tenant_id = tenant
    AND q.quarter >= COALESCE(tollgate_day_start(first, s.zone), '-infinity') AND q.quarter < COALESCE(tollgate_day_start(last + 1, s.zone), 'infinity')
  GROUP BY q.tenant_id, f.face, day, f.cell
$$;

CREATE OR REPLACE FUNCTION tollgate_cost_rezone(into_zone text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE mine uuid := current_setting('app.tenant_id')::uuid;
BEGIN
  UPDATE cost_states SET zone = into_zone, cut_from = 'infinity' WHERE tenant_id = mine AND zone <> into_zone;
END $$;

-- Cut some days anew, the newest first: about `most` sums of each face, and at least a day. True: there are more.
CREATE FUNCTION tollgate_cost_recut_some(tenant uuid, most integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  upto date;
  in_zone text;
  high timestamptz := 'infinity';
  newest date;
  first date;
BEGIN
  SELECT s.cut_from, s.zone INTO upto, in_zone FROM cost_states s WHERE s.tenant_id = tenant FOR NO KEY UPDATE;
  IF upto IS NULL THEN
    RETURN false;
  END IF;
  IF upto < 'infinity' THEN
    high := tollgate_day_start(upto, in_zone);
  END IF;
  SELECT max((n.quarter AT TIME ZONE in_zone)::date) INTO newest FROM (
    (SELECT q.quarter FROM cost_quarters q WHERE q.tenant_id = tenant AND q.face = 0 AND q.quarter < high ORDER BY q.quarter DESC LIMIT 1)
    UNION ALL
    (SELECT q.quarter FROM cost_quarters q WHERE q.tenant_id = tenant AND q.face = 2 AND q.quarter < high ORDER BY q.quarter DESC LIMIT 1)) n;
  -- The day of the sum that is too much does not come whole.
  SELECT LEAST(newest, max((n.quarter AT TIME ZONE in_zone)::date) + 1) INTO first FROM (
    (SELECT q.quarter FROM cost_quarters q WHERE q.tenant_id = tenant AND q.face = 0 AND q.quarter < high ORDER BY q.quarter DESC OFFSET most LIMIT 1)
    UNION ALL
    (SELECT q.quarter FROM cost_quarters q WHERE q.tenant_id = tenant AND q.face = 2 AND q.quarter < high ORDER BY q.quarter DESC OFFSET most LIMIT 1)) n
  HAVING count(*) > 0;
  PERFORM tollgate_cost_recut(tenant, first, CASE WHEN upto < 'infinity' THEN upto - 1 END);
  UPDATE cost_states SET cut_from = first WHERE tenant_id = tenant;
  RETURN first IS NOT NULL;
END $$;

-- The sums of rows that are dropped are all that there is of them: what lies before `pruned_to` is not counted anew.
CREATE OR REPLACE FUNCTION tollgate_cost_build(tenant uuid, most integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  upper uuid;
  lowest uuid;
  start timestamptz;
  month timestamptz;
  bottom timestamptz;
BEGIN
  -- The sealer waits, so that nothing changes sides in between.
  PERFORM pg_advisory_xact_lock(7420003);
  -- The tenant may be moving to another zone.
  PERFORM FROM tenants t WHERE t.tenant_id = tenant FOR SHARE;
  INSERT INTO cost_states (tenant_id, zone) SELECT t.tenant_id, t.time_zone FROM tenants t WHERE t.tenant_id = tenant ON CONFLICT DO NOTHING;
  SELECT s.counted_from, s.pruned_to INTO upper, bottom FROM cost_states s WHERE s.tenant_id = tenant FOR NO KEY UPDATE;
  IF upper IS NULL OR upper = '00000000-0000-0000-0000-000000000000' THEN
    RETURN false;
  END IF;
  IF upper = 'ffffffff-ffff-ffff-ffff-ffffffffffff' THEN
    -- From the beginning. Sums may stand there that were given up; those of rows that have been dropped are all that there is of them.
    DELETE FROM cost_quarters q USING cost_states s WHERE s.tenant_id = tenant AND q.tenant_id = tenant AND q.quarter >= s.pruned_to;
    UPDATE cost_states s SET cut_from = 'infinity' WHERE s.tenant_id = tenant AND EXISTS (SELECT FROM cost_days d WHERE d.tenant_id = tenant);
  END IF;
  SELECT max(n.at) INTO start FROM (
    (SELECT tollgate_quarter(e.call_id) AS at FROM tool_call_events e WHERE e.tenant_id = tenant AND e.call_id < upper
       AND e.call_id >= tollgate_uuid_floor(bottom) ORDER BY e.call_id DESC LIMIT 1)
    UNION ALL
    (SELECT tollgate_quarter(q.llm_request_id) FROM llm_requests q WHERE q.tenant_id = tenant AND q.llm_request_id < upper
       AND q.llm_request_id >= tollgate_uuid_floor(bottom) ORDER BY q.llm_request_id DESC LIMIT 1)) n;
  IF start IS NULL THEN
    UPDATE cost_states SET counted_from = '00000000-0000-0000-0000-000000000000' WHERE tenant_id = tenant;
    RETURN false;
  END IF;
  month := GREATEST(start - interval '1 month', bottom);
  SELECT max(n.id::text)::uuid INTO lowest FROM (
    (SELECT e.call_id AS id FROM tool_call_events e WHERE e.tenant_id = tenant AND e.call_id < upper
       AND e.call_id >= tollgate_uuid_floor(month) ORDER BY e.call_id DESC OFFSET most LIMIT 1)
    UNION ALL
    (SELECT f.llm_request_id FROM llm_forwards f WHERE f.tenant_id = tenant AND f.llm_request_id < upper
       AND f.llm_request_id >= tollgate_uuid_floor(month) ORDER BY f.llm_request_id DESC OFFSET most LIMIT 1)) n;
  start := CASE WHEN lowest IS NULL THEN month ELSE LEAST(start, tollgate_quarter(lowest) + interval '15 minutes') END;
  lowest := tollgate_uuid_floor(start);
  PERFORM tollgate_cost_add(ARRAY(SELECT r FROM tollgate_cost_rows(tenant, lowest, upper, true, true) r));
  UPDATE cost_states SET counted_from = lowest WHERE tenant_id = tenant;
  RETURN lowest <> '00000000-0000-0000-0000-000000000000';
END $$;

-- ---------------------------------------------------------------- checking and reading them

CREATE OR REPLACE FUNCTION tollgate_cost_drift(tenant uuid, since timestamptz, until timestamptz, OUT cells bigint, OUT calls bigint, OUT amount numeric, OUT tokens bigint,
  OUT requests bigint, OUT llm_amount numeric)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  low timestamptz;
  high timestamptz;
  blind boolean;
  more bigint;
BEGIN
  SELECT s.low, s.high INTO low, high FROM tollgate_cost_span(tenant, since, until) s;
  cells := 0; calls := 0; amount := 0; tokens := 0; requests := 0; llm_amount := 0;
  IF low IS NULL OR low >= high THEN
    RETURN;
  END IF;
  -- Where a call's request has been dropped with its month, nobody can say any more which model made it.
  SELECT EXISTS (SELECT FROM tool_call_events i WHERE i.tenant_id = tenant AND i.kind = 0 AND i.call_id >= tollgate_uuid_floor(low)
    AND i.call_id < tollgate_uuid_floor(high) AND NOT EXISTS (
      SELECT FROM llm_requests l WHERE l.tenant_id = tenant AND l.llm_request_id = i.llm_request_id)) INTO blind;
  -- Quarters of everything against the rows; of the key's face what belongs to requests.
  SELECT count(*), COALESCE(sum(d.calls), 0), COALESCE(sum(d.amount), 0), COALESCE(sum(d.tokens), 0), COALESCE(sum(d.requests), 0),
         COALESCE(sum(d.llm_amount), 0) INTO cells, calls, amount, tokens, requests, llm_amount FROM (
    SELECT sum(x.sign * x.calls) AS calls, sum(x.sign * x.amount) AS amount, sum(x.sign * x.tokens) AS tokens,
           sum(x.sign * x.requests) AS requests, sum(x.sign * x.llm_amount) AS llm_amount
    FROM (
      SELECT -1 AS sign, r.quarter, r.tool_id, r.upstream_id, r.key_id, r.team_id, r.outcome, r.model, r.origin, r.calls, r.amount, r.latency, r.tokens,
             r.requests, r.llm_amount, r.input_tokens, r.cached_tokens, r.output_tokens, r.reasoning_tokens
      FROM tollgate_cost_rows(tenant, tollgate_uuid_floor(low), tollgate_uuid_floor(high), true, NOT blind) r
      UNION ALL
      SELECT 1, q.quarter, c.tool_id, c.upstream_id, c.key_id, c.team_id, c.outcome, CASE WHEN NOT blind THEN c.model END, c.origin,
             CASE q.face WHEN 0 THEN q.calls ELSE 0 END, CASE q.face WHEN 0 THEN q.amount ELSE 0 END, CASE q.face WHEN 0 THEN q.latency ELSE '' END, q.tokens,
             q.requests, q.llm_amount, q.input_tokens, q.cached_tokens, q.output_tokens, q.reasoning_tokens
      FROM cost_quarters q JOIN cost_cells c ON c.tenant_id = q.tenant_id AND c.face = q.face AND c.cell = q.cell
      WHERE q.tenant_id = tenant AND q.quarter >= low AND q.quarter < high AND (q.face = 0 OR (q.face = 2
        AND (q.tokens, q.requests, q.llm_amount, q.input_tokens, q.cached_tokens, q.output_tokens, q.reasoning_tokens) <> (0, 0, 0, 0, 0, 0, 0)))) x
    GROUP BY x.quarter, x.tool_id, x.upstream_id, x.key_id, x.team_id, x.outcome, x.model, x.origin
    HAVING (sum(x.sign * x.calls), sum(x.sign * x.amount), sum(x.sign * x.tokens), sum(x.sign * x.requests), sum(x.sign * x.llm_amount),
            sum(x.sign * x.input_tokens), sum(x.sign * x.cached_tokens), sum(x.sign * x.output_tokens), sum(x.sign * x.reasoning_tokens))
           <> (0, 0, 0, 0, 0, 0, 0, 0, 0)
        OR COALESCE(tollgate_latency_sum(string_agg(x.latency, ''::bytea) FILTER (WHERE x.sign = 1)), '')
           IS DISTINCT FROM COALESCE(tollgate_latency_sum(string_agg(x.latency, ''::bytea) FILTER (WHERE x.sign = -1)), '')) d;
  -- The other faces against that of everything, and the tokens of one against the other's.
  SELECT count(*) INTO more FROM (
    SELECT FROM (
      SELECT -1 AS sign, f.face, q.quarter, CASE WHEN f.face = 1 THEN c.tool_id END AS tool, CASE WHEN f.face = 1 THEN c.upstream_id END AS upstream,
             CASE WHEN f.face = 2 THEN c.key_id END AS key, CASE WHEN f.face = 2 THEN c.team_id END AS team, c.outcome,
             CASE WHEN f.face <> 1 THEN c.model END AS model, CASE WHEN f.face <> 1 THEN c.origin END AS origin,
             q.calls, q.amount, q.latency, 0 AS tokens,
             0 AS requests, 0 AS llm_amount, 0 AS input_tokens, 0 AS cached_tokens, 0 AS output_tokens, 0 AS reasoning_tokens
      FROM cost_quarters q JOIN cost_cells c ON c.tenant_id = q.tenant_id AND c.face = q.face AND c.cell = q.cell
      CROSS JOIN (VALUES (1), (2), (4)) f(face)
      WHERE q.tenant_id = tenant AND q.face = 0 AND q.quarter >= low AND q.quarter < high
      UNION ALL
      SELECT -1, 4, q.quarter, NULL, NULL, NULL, NULL, c.outcome, c.model, c.origin, 0, 0, '', q.tokens,
             q.requests, q.llm_amount, q.input_tokens, q.cached_tokens, q.output_tokens, q.reasoning_tokens
      FROM cost_quarters q JOIN cost_cells c ON c.tenant_id = q.tenant_id AND c.face = q.face AND c.cell = q.cell
      WHERE q.tenant_id = tenant AND q.face = 2 AND q.quarter >= low AND q.quarter < high
        AND (q.tokens, q.requests, q.llm_amount, q.input_tokens, q.cached_tokens, q.output_tokens, q.reasoning_tokens) <> (0, 0, 0, 0, 0, 0, 0)
      UNION ALL
      SELECT 1, q.face, q.quarter, c.tool_id, c.upstream_id, c.key_id, c.team_id, c.outcome, c.model, c.origin, q.calls, q.amount, q.latency,
             CASE q.face WHEN 4 THEN q.tokens ELSE 0 END,
             CASE q.face WHEN 4 THEN q.requests END, CASE q.face WHEN 4 THEN q.llm_amount END, CASE q.face WHEN 4 THEN q.input_tokens END,
             CASE q.face WHEN 4 THEN q.cached_tokens END, CASE q.face WHEN 4 THEN q.output_tokens END, CASE q.face WHEN 4 THEN q.reasoning_tokens END
      FROM cost_quarters q JOIN cost_cells c ON c.tenant_id = q.tenant_id AND c.face = q.face AND c.cell = q.cell
      WHERE q.tenant_id = tenant AND q.face IN (1, 2, 4) AND q.quarter >= low AND q.quarter < high) x
    GROUP BY x.face, x.quarter, x.tool, x.upstream, x.key, x.team, x.outcome, x.model, x.origin
    HAVING (sum(x.sign * x.calls), sum(x.sign * x.amount), sum(x.sign * x.tokens), sum(x.sign * x.requests), sum(x.sign * x.llm_amount),
            sum(x.sign * x.input_tokens), sum(x.sign * x.cached_tokens), sum(x.sign * x.output_tokens), sum(x.sign * x.reasoning_tokens))
           <> (0, 0, 0, 0, 0, 0, 0, 0, 0)
        OR COALESCE(tollgate_latency_sum(string_agg(x.latency, ''::bytea) FILTER (WHERE x.sign = 1)), '')
           IS DISTINCT FROM COALESCE(tollgate_latency_sum(string_agg(x.latency, ''::bytea) FILTER (WHERE x.sign = -1)), '')) d;
  cells := cells + more;
  -- The days that have any of these quarters, against all quarters that they have.
  SELECT count(*) INTO more FROM (
    SELECT FROM cost_states s CROSS JOIN LATERAL (
      SELECT -1 AS sign, c.* FROM tollgate_cost_cut(tenant, (low AT TIME ZONE s.zone)::date, ((high - interval '15 minutes') AT TIME ZONE s.zone)::date) c
      UNION ALL
      SELECT 1, d.* FROM cost_days d WHERE d.tenant_id = tenant AND d.day >= (low AT TIME ZONE s.zone)::date
        AND d.day <= ((high - interval '15 minutes') AT TIME ZONE s.zone)::date) x
    WHERE s.tenant_id = tenant AND x.day >= COALESCE(s.cut_from, '-infinity')
    GROUP BY x.face, x.day, x.cell
    HAVING (sum(x.sign * x.calls), sum(x.sign * x.amount), sum(x.sign * x.tokens), sum(x.sign * x.requests), sum(x.sign * x.llm_amount),
            sum(x.sign * x.input_tokens), sum(x.sign * x.cached_tokens), sum(x.sign * x.output_tokens), sum(x.sign * x.reasoning_tokens))
           <> (0, 0, 0, 0, 0, 0, 0, 0, 0)
        OR COALESCE(tollgate_latency_sum(string_agg(x.latency, ''::bytea) FILTER (WHERE x.sign = 1)), '')
           IS DISTINCT FROM COALESCE(tollgate_latency_sum(string_agg(x.latency, ''::bytea) FILTER (WHERE x.sign = -1)), '')) d;
  cells := cells + more;
END $$;

-- As before; and before which time (`pruned`) a report reads sums whatever else it reads.
DROP FUNCTION tollgate_cost_layout(timestamptz, timestamptz);
CREATE FUNCTION tollgate_cost_layout(INOUT low timestamptz, INOUT high timestamptz, OUT zone text, OUT first date, OUT last date,
  OUT first_at timestamptz, OUT last_at timestamptz, OUT waiting bigint, OUT pruned timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  counted timestamptz;
  cut date;
BEGIN
  SELECT s.zone, tollgate_quarter(s.counted_from), s.pruned_to, COALESCE(s.cut_from, '-infinity') INTO zone, counted, pruned, cut
  FROM cost_states s WHERE s.tenant_id = current_setting('app.tenant_id')::uuid;
  low := GREATEST(low, COALESCE(counted, high));
  IF low >= high THEN
    high := low;
    RETURN;
  END IF;
  SELECT COALESCE(sum(octet_length(b.entries) / 69), 0) INTO waiting FROM audit_batches b;
  -- The day of the quarter before and the day of the one behind are not whole.
  first := GREATEST(cut, ((low - interval '15 minutes') AT TIME ZONE zone)::date + 1);
  last := (high AT TIME ZONE zone)::date - 1;
  IF first > last THEN
    first := NULL;
    RETURN;
  END IF;
  first_at := tollgate_day_start(first, zone);
  last_at := tollgate_day_start(last + 1, zone);
END $$;

REVOKE ALL ON FUNCTION tollgate_cost_layout(timestamptz, timestamptz), tollgate_cost_recut_some(uuid, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate_cost_layout(timestamptz, timestamptz) TO tollgate_app;
GRANT EXECUTE ON FUNCTION tollgate_cost_recut_some(uuid, integer) TO tollgate_control;

-- How many calls and requests of its time had not ended when a report was made: what they came to is in no later one.
ALTER TABLE report_deliveries ADD still_open bigint;

-- Where refused requests are counted under the names that they asked for, the sums are made anew.
UPDATE cost_states SET counted_from = 'ffffffff-ffff-ffff-ffff-ffffffffffff'
WHERE tenant_id IN (SELECT f.tenant_id FROM llm_forwards f WHERE f.decision = 'denied');
