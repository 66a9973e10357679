-- Rollups: what cost reports are made of, so that they answer in milliseconds, and equal the trail at every moment.
--
--   cost_cells     the combinations of tool, upstream, key, team, outcome, model and origin that there were
--   cost_quarters  what a cell's calls and LLM requests sum up to in a quarter of an hour, by the time in their ids: every zone's offset is a
--                  multiple of it
--   cost_days      the same in a day of the tenant's time zone
--
-- A combination of everything is nearly as rare as a call. So each call is counted under several *faces* of it, each a cell of its own:
--   0 everything; 1 tool, upstream; 2 key, team, model, origin; 3 tool, upstream, key, team; 4 model, origin (and the outcome in each)
-- Quarters keep all but 3, days all but 0: a report takes the smallest that knows what it asks for.
-- What belongs to requests (of models, and of Code Mode) stands under faces 2 and 4 alone: they have no tool, no upstream, and are not told
-- apart by outcome.
--
-- **Why they cannot drift.** A row is counted once, by the transaction that gives it its place in the log: by the batch whose transaction
-- wrote it (`xmin`), as budgets are settled. So a row that can be seen is counted unless its batch still stands in audit_batches,
-- and whoever reads both in one snapshot, the rollups and what waits, has read the trail: reports do. What a row changes is what its
-- call says with it, less what the call said without: in which order the rows of a call are sealed does not matter.
--
-- Rows of before, and of tenants that nobody has counted yet, are counted backwards in time, step by step: `counted_from` says from which
-- id on all is counted. Below it a report reads the rows.

CREATE TABLE cost_states (
  tenant_id    uuid PRIMARY KEY REFERENCES tenants,
  -- The start of a quarter, as the smallest id of its time; nil when everything is counted.
  counted_from uuid NOT NULL DEFAULT 'ffffffff-ffff-ffff-ffff-ffffffffffff',
  -- In which cost_days is cut.
  zone         text NOT NULL,
  -- Rows before it have been dropped; their sums stay.
  pruned_to    timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00+00',
  -- Where the checker goes on.
  checked_to   timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00+00'
);

CREATE TABLE cost_cells (
  tenant_id     uuid NOT NULL,
  face          smallint NOT NULL,
  -- A hash over the columns that follow, but for the names.
  cell          uuid NOT NULL,
  tool_id       uuid,
  upstream_id   uuid,
  key_id        uuid,
  team_id       uuid,
  outcome       text,
  model         text,
  origin        text,
  tool_name     text,
  upstream_name text,
  PRIMARY KEY (tenant_id, face, cell)
);

-- Updated in place while its time goes on.
CREATE TABLE cost_quarters (
  tenant_id uuid NOT NULL,
  face      smallint NOT NULL,
  quarter   timestamptz NOT NULL,
  cell      uuid NOT NULL,
  calls     bigint NOT NULL,
  amount    numeric(38,0) NOT NULL,
  -- How many calls took how long: see tollgate_latency_bucket. Entries of six bytes: a bucket (2) and a number of calls (4, signed). A
  -- bucket may come more than once, so that adding is appending.
  latency   bytea NOT NULL,
  -- Prompt tokens avoided: faces 2 and 4.
  tokens    bigint NOT NULL,
  -- Requests to models, denied ones too, and what those that have ended cost and took: null but in faces 2 and 4.
  requests         bigint,
  llm_amount       numeric(38,0),
  input_tokens     bigint,
  cached_tokens    bigint,
  output_tokens    bigint,
  reasoning_tokens bigint,
  PRIMARY KEY (tenant_id, face, quarter, cell)
) WITH (fillfactor = 80);
CREATE TABLE cost_days (
  tenant_id uuid NOT NULL,
  face      smallint NOT NULL,
  day       date NOT NULL,
  cell      uuid NOT NULL,
  calls     bigint NOT NULL,
  amount    numeric(38,0) NOT NULL,
  latency   bytea NOT NULL,
  tokens    bigint NOT NULL,
  requests         bigint,
  llm_amount       numeric(38,0),
  input_tokens     bigint,
  cached_tokens    bigint,
  output_tokens    bigint,
  reasoning_tokens bigint,
  PRIMARY KEY (tenant_id, face, day, cell)
) WITH (fillfactor = 70);

-- ---------------------------------------------------------------- measures

-- The quarter of an hour of the time in an id.
CREATE FUNCTION tollgate_quarter(id uuid) RETURNS timestamptz LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
$$ SELECT to_timestamp((('x' || left(id::text, 8) || substr(id::text, 10, 4))::bit(48)::bigint / 900000) * 900) $$;

-- The first quarter of a local day. (Not its midnight, of which there may be two or none.)
CREATE FUNCTION tollgate_day_start(day date, zone text) RETURNS timestamptz LANGUAGE sql STABLE STRICT AS $$
  SELECT min(q) FROM generate_series(day::timestamp AT TIME ZONE 'UTC' - interval '16 hours',
                                     day::timestamp AT TIME ZONE 'UTC' + interval '40 hours', interval '15 minutes') q
  WHERE (q AT TIME ZONE zone)::date >= day
$$;

-- Microseconds below 32 have a bucket each; above, every power of two has sixteen. The middle of a bucket is at most 3.2 % off. (Not STRICT:
-- a strict one would be called and not read into the statement.)
CREATE FUNCTION tollgate_latency_bucket(us bigint) RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT (CASE WHEN us < 16 THEN GREATEST(us, 0)
               ELSE (width_bucket(us, '{2,4,8,16,32,64,128,256,512,1024,2048,4096,8192,16384,32768,65536,131072,262144,524288,1048576,2097152,4194304,8388608,16777216,33554432,67108864,134217728,268435456,536870912,1073741824,2147483648,4294967296,8589934592,17179869184,34359738368,68719476736,137438953472,274877906944,549755813888,1099511627776,2199023255552,4398046511104,8796093022208,17592186044416,35184372088832,70368744177664,140737488355328,281474976710656,562949953421312,1125899906842624,2251799813685248,4503599627370496,9007199254740992,18014398509481984,36028797018963968,72057594037927936,144115188075855872,288230376151711744,576460752303423488,1152921504606846976,2305843009213693952,4611686018427387904}'::bigint[]) - 4) * 16 + (us >> (width_bucket(us, '{2,4,8,16,32,64,128,256,512,1024,2048,4096,8192,16384,32768,65536,131072,262144,524288,1048576,2097152,4194304,8388608,16777216,33554432,67108864,134217728,268435456,536870912,1073741824,2147483648,4294967296,8589934592,17179869184,34359738368,68719476736,137438953472,274877906944,549755813888,1099511627776,2199023255552,4398046511104,8796093022208,17592186044416,35184372088832,70368744177664,140737488355328,281474976710656,562949953421312,1125899906842624,2251799813685248,4503599627370496,9007199254740992,18014398509481984,36028797018963968,72057594037927936,144115188075855872,288230376151711744,576460752303423488,1152921504606846976,2305843009213693952,4611686018427387904}'::bigint[]) - 4)) END)::smallint
$$;

-- Each bucket once, in order.
CREATE FUNCTION tollgate_latency_sum(entries bytea) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT CASE WHEN length(entries) <= 6 THEN entries ELSE COALESCE((
    SELECT string_agg(int2send(s.bucket) || int4send(s.n), ''::bytea ORDER BY s.bucket)
    FROM (SELECT e.bucket, sum(e.n)::integer AS n
          FROM (SELECT ((get_byte(entries, 6 * i) << 8) | get_byte(entries, 6 * i + 1))::smallint AS bucket,
                       (get_byte(entries, 6 * i + 2) << 24) | (get_byte(entries, 6 * i + 3) << 16)
                         | (get_byte(entries, 6 * i + 4) << 8) | get_byte(entries, 6 * i + 5) AS n
                FROM generate_series(0, length(entries) / 6 - 1) i) e
          GROUP BY e.bucket HAVING sum(e.n) <> 0) s), ''::bytea) END
$$;

CREATE FUNCTION tollgate_cost_cell(tool uuid, upstream uuid, key uuid, team uuid, outcome text, model text, origin text) RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT encode(substr(sha256(convert_to(ROW(tool, upstream, key, team, outcome, model, origin)::text, 'UTF8')), 1, 16), 'hex')::uuid
$$;

-- What calls and requests of one combination of everything amount to in a quarter.
CREATE TYPE tollgate_cost AS (
  tenant_id uuid, quarter timestamptz, tool_id uuid, upstream_id uuid, key_id uuid, team_id uuid, outcome text, model text, origin text,
  tool_name text, upstream_name text, calls bigint, amount numeric, latency bytea, tokens bigint,
  requests bigint, llm_amount numeric, input_tokens bigint, cached_tokens bigint, output_tokens bigint, reasoning_tokens bigint);

-- ---------------------------------------------------------------- what rows amount to

-- The sums over the rows of a tenant between two ids, as the views tool_calls and llm_calls have them. `sealed`: without those whose batch waits.
CREATE FUNCTION tollgate_cost_rows(tenant uuid, low uuid, high uuid, sealed boolean, with_model boolean) RETURNS SETOF tollgate_cost
LANGUAGE plpgsql STABLE SET search_path = public, pg_temp AS $$
BEGIN
  -- Planned for these bounds: a day is joined by hashing, a minute by looking up. The range stands on each part of a call: Postgres would
  -- not carry it over from the first to the others.
  RETURN QUERY EXECUTE $q$
    WITH pending AS MATERIALIZED (SELECT b.xid::xid AS xid FROM audit_batches b WHERE $4),
    calls AS (
      SELECT tollgate_quarter(i.call_id) AS quarter, i.tool_id, i.upstream_id, i.key_id, i.team_id,
             COALESCE(c.outcome, r.outcome, i.outcome) AS outcome, CASE WHEN $5 THEN l.model END AS model, i.origin, i.tool_name, i.upstream_name,
             CASE WHEN c.call_id IS NOT NULL THEN COALESCE(c.amount_picos, i.amount_picos) ELSE COALESCE(r.amount_picos, i.amount_picos) END AS amount,
             tollgate_latency_bucket(CASE WHEN c.call_id IS NOT NULL THEN COALESCE(c.latency_us, i.latency_us)
                                          ELSE COALESCE(r.latency_us, i.latency_us) END) AS bucket
      FROM (SELECT * FROM tool_call_events e WHERE e.tenant_id = $1 AND e.call_id >= $2 AND e.call_id < $3 AND e.kind = 0
              AND NOT ($4 AND e.xmin IN (SELECT p.xid FROM pending p))) i
      LEFT JOIN (SELECT * FROM tool_call_events e WHERE e.tenant_id = $1 AND e.call_id >= $2 AND e.call_id < $3 AND e.kind = 1
              AND NOT ($4 AND e.xmin IN (SELECT p.xid FROM pending p))) c ON c.call_id = i.call_id
      LEFT JOIN (SELECT * FROM tool_call_events e WHERE e.tenant_id = $1 AND e.call_id >= $2 AND e.call_id < $3 AND e.kind = 2
              AND NOT ($4 AND e.xmin IN (SELECT p.xid FROM pending p))) r ON r.call_id = i.call_id
      $q$ || CASE WHEN with_model THEN 'LEFT JOIN llm_requests l ON l.tenant_id = $1 AND l.llm_request_id = i.llm_request_id'
                  ELSE 'CROSS JOIN (SELECT NULL::text AS model) l' END || $q$),
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
    SELECT $1, tollgate_quarter(q.llm_request_id), NULL, NULL, q.key_id, q.team_id, NULL, CASE WHEN $5 THEN q.model END, q.origin, NULL, NULL,
           0::bigint, 0::numeric, ''::bytea, COALESCE(sum(q.prompt_tokens_avoided), 0)::bigint, count(f.llm_request_id),
           COALESCE(sum(COALESCE(c.amount_picos, r.amount_picos)), 0)::numeric,
           COALESCE(sum(COALESCE(c.input_tokens, r.input_tokens)), 0)::bigint, COALESCE(sum(COALESCE(c.cached_tokens, r.cached_tokens)), 0)::bigint,
           COALESCE(sum(COALESCE(c.output_tokens, r.output_tokens)), 0)::bigint,
           COALESCE(sum(COALESCE(c.reasoning_tokens, r.reasoning_tokens)), 0)::bigint
    FROM (SELECT * FROM llm_requests q WHERE q.tenant_id = $1 AND q.llm_request_id >= $2 AND q.llm_request_id < $3
            AND NOT ($4 AND q.xmin IN (SELECT p.xid FROM pending p))) q
    LEFT JOIN (SELECT f.llm_request_id FROM llm_forwards f WHERE f.tenant_id = $1 AND f.llm_request_id >= $2 AND f.llm_request_id < $3) f
      ON f.llm_request_id = q.llm_request_id
    LEFT JOIN (SELECT * FROM llm_request_ends e WHERE e.tenant_id = $1 AND e.llm_request_id >= $2 AND e.llm_request_id < $3 AND e.kind = 1
            AND NOT ($4 AND e.xmin IN (SELECT p.xid FROM pending p))) c ON c.llm_request_id = f.llm_request_id
    LEFT JOIN (SELECT * FROM llm_request_ends e WHERE e.tenant_id = $1 AND e.llm_request_id >= $2 AND e.llm_request_id < $3 AND e.kind = 2
            AND NOT ($4 AND e.xmin IN (SELECT p.xid FROM pending p))) r ON r.llm_request_id = f.llm_request_id
    WHERE q.prompt_tokens_avoided IS NOT NULL OR f.llm_request_id IS NOT NULL
    GROUP BY 2, 5, 6, 8, 9$q$
  USING tenant, low, high, sealed, with_model;
END $$;

-- What these entries of the log change: for each call and request what it says with them, less what it said before, which is what its
-- other rows say whose batches do not wait any more. An entry counts for the batch whose transaction wrote its row and for no other that names it.
-- kinds: 0, 1, 2 as in tool_call_events; 3 a request; 4, 5 its end and its resolution (1 and 2 in llm_request_ends).
CREATE FUNCTION tollgate_cost_deltas(tenants uuid[], ids uuid[], kinds smallint[], xids text[]) RETURNS SETOF tollgate_cost
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  WITH named AS MATERIALIZED (
    SELECT n.tenant, n.id, n.kind >= 3 AS is_request, array_agg(n.kind || ':' || n.xid::xid8::xid) AS marks
    FROM UNNEST(tenants, ids, kinds, xids) AS n(tenant, id, kind, xid)
    JOIN cost_states s ON s.tenant_id = n.tenant AND n.id >= s.counted_from
    GROUP BY 1, 2, 3),
  pending AS MATERIALIZED (SELECT b.xid::xid AS xid FROM audit_batches b),
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
    FROM (SELECT c.*, (SELECT l.model FROM llm_requests l WHERE l.tenant_id = c.tenant AND l.llm_request_id = (c.i).llm_request_id) AS model
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
    SELECT n.tenant, n.id, q.key_id, q.team_id, q.model, q.origin, q.prompt_tokens_avoided AS tokens, q.fresh, f.forwarded, e.d,
           CASE WHEN NOT q.fresh THEN e.b END AS b
    FROM named n
    CROSS JOIN LATERAL (SELECT q.*, q.xmin AS written_by, ('3:' || q.xmin) = ANY (n.marks) AS fresh FROM llm_requests q
                        WHERE q.tenant_id = n.tenant AND q.llm_request_id = n.id OFFSET 0) q
    -- Most requests are minted, and are not looked for.
    LEFT JOIN LATERAL (SELECT 1 AS forwarded FROM llm_forwards f
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
           sum(COALESCE((r.d).input_tokens, 0) - COALESCE((r.b).input_tokens, 0))::bigint AS input_tokens,
           sum(COALESCE((r.d).cached_tokens, 0) - COALESCE((r.b).cached_tokens, 0))::bigint AS cached_tokens,
           sum(COALESCE((r.d).output_tokens, 0) - COALESCE((r.b).output_tokens, 0))::bigint AS output_tokens,
           sum(COALESCE((r.d).reasoning_tokens, 0) - COALESCE((r.b).reasoning_tokens, 0))::bigint AS reasoning_tokens
    FROM requests r GROUP BY 1, 2, 5, 6, 8, 9) x
  WHERE (x.tokens, x.requests, x.llm_amount, x.input_tokens, x.cached_tokens, x.output_tokens, x.reasoning_tokens) <> (0, 0, 0, 0, 0, 0, 0)
$$;

-- ---------------------------------------------------------------- keeping them

-- Add to all faces. Whoever calls it holds the tenants' states. Entries of latencies are appended, and summed up once in a while: that costs
-- more than all else.
CREATE FUNCTION tollgate_cost_add(costs tollgate_cost[]) RETURNS void
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
           sum(calls)::bigint AS calls, sum(amount) AS amount, string_agg(latency, ''::bytea) AS latency, sum(tokens)::bigint AS tokens,
           sum(requests)::bigint AS requests, sum(llm_amount) AS llm_amount,
           sum(input_tokens)::bigint AS input_tokens, sum(cached_tokens)::bigint AS cached_tokens, sum(output_tokens)::bigint AS output_tokens,
           sum(reasoning_tokens)::bigint AS reasoning_tokens
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
    ON CONFLICT (tenant_id, face, quarter, cell) DO UPDATE SET calls = k.calls + EXCLUDED.calls, amount = k.amount + EXCLUDED.amount,
      latency = CASE WHEN length(k.latency) / 600 = (length(k.latency) + length(EXCLUDED.latency)) / 600 THEN k.latency || EXCLUDED.latency
                     ELSE tollgate_latency_sum(k.latency || EXCLUDED.latency) END,
      tokens = k.tokens + EXCLUDED.tokens,
      requests = k.requests + EXCLUDED.requests, llm_amount = k.llm_amount + EXCLUDED.llm_amount,
      input_tokens = k.input_tokens + EXCLUDED.input_tokens, cached_tokens = k.cached_tokens + EXCLUDED.cached_tokens,
      output_tokens = k.output_tokens + EXCLUDED.output_tokens, reasoning_tokens = k.reasoning_tokens + EXCLUDED.reasoning_tokens)
  INSERT INTO cost_days AS k (tenant_id, face, day, cell, calls, amount, latency, tokens,
    requests, llm_amount, input_tokens, cached_tokens, output_tokens, reasoning_tokens)
  SELECT tenant_id, face, (quarter AT TIME ZONE zone)::date AS day, cell, sum(calls)::bigint, sum(amount),
         CASE WHEN sum(length(latency)) > 600 THEN tollgate_latency_sum(string_agg(latency, ''::bytea)) ELSE string_agg(latency, ''::bytea) END,
         sum(tokens)::bigint, sum(requests)::bigint, sum(llm_amount), sum(input_tokens)::bigint, sum(cached_tokens)::bigint,
         sum(output_tokens)::bigint, sum(reasoning_tokens)::bigint
  FROM summed WHERE face > 0 GROUP BY tenant_id, face, day, cell ORDER BY tenant_id, face, day, cell
  ON CONFLICT (tenant_id, face, day, cell) DO UPDATE SET calls = k.calls + EXCLUDED.calls, amount = k.amount + EXCLUDED.amount,
    latency = CASE WHEN length(k.latency) / 600 = (length(k.latency) + length(EXCLUDED.latency)) / 600 THEN k.latency || EXCLUDED.latency
                     ELSE tollgate_latency_sum(k.latency || EXCLUDED.latency) END,
    tokens = k.tokens + EXCLUDED.tokens,
    requests = k.requests + EXCLUDED.requests, llm_amount = k.llm_amount + EXCLUDED.llm_amount,
    input_tokens = k.input_tokens + EXCLUDED.input_tokens, cached_tokens = k.cached_tokens + EXCLUDED.cached_tokens,
    output_tokens = k.output_tokens + EXCLUDED.output_tokens, reasoning_tokens = k.reasoning_tokens + EXCLUDED.reasoning_tokens;
END $$;

-- Count what is sealed now, in the sealer's transaction, while its batches are still there.
CREATE FUNCTION tollgate_roll(tenants uuid[], ids uuid[], kinds smallint[], xids text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  -- A statement of its own: what follows sees what whoever held them has done.
  PERFORM FROM cost_states s WHERE s.tenant_id = ANY (tenants) ORDER BY s.tenant_id FOR NO KEY UPDATE;
  IF FOUND THEN
    PERFORM tollgate_cost_add(ARRAY(SELECT d FROM tollgate_cost_deltas(tenants, ids, kinds, xids) d));
  END IF;
END $$;

-- The sums of these tenants cannot be kept: from now on their reports read the rows, and somebody counts from the beginning.
CREATE FUNCTION tollgate_cost_give_up(tenants uuid[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  UPDATE cost_states SET counted_from = 'ffffffff-ffff-ffff-ffff-ffffffffffff' WHERE tenant_id = ANY (tenants)
$$;

-- Quarters as days in the tenant's zone: those that some of the days between `first` and `last` have, or all.
CREATE FUNCTION tollgate_cost_cut(tenant uuid, first date, last date) RETURNS SETOF cost_days
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  SELECT q.tenant_id, f.face, (q.quarter AT TIME ZONE s.zone)::date AS day, f.cell, sum(q.calls)::bigint, sum(q.amount)::numeric(38,0),
         tollgate_latency_sum(string_agg(q.latency, ''::bytea)), sum(q.tokens)::bigint, sum(q.requests)::bigint,
         sum(q.llm_amount)::numeric(38,0), sum(q.input_tokens)::bigint, sum(q.cached_tokens)::bigint, sum(q.output_tokens)::bigint,
         sum(q.reasoning_tokens)::bigint
  FROM cost_states s JOIN cost_quarters q ON q.tenant_id = s.tenant_id
  JOIN (SELECT c.face AS source, c.cell AS from_cell, CASE c.face WHEN 0 THEN 3::smallint ELSE c.face END AS face,
               CASE c.face WHEN 0 THEN tollgate_cost_cell(c.tool_id, c.upstream_id, c.key_id, c.team_id, c.outcome, NULL, NULL) ELSE c.cell END AS cell
        FROM cost_cells c WHERE c.tenant_id = tenant AND c.face <> 3 OFFSET 0) f ON f.source = q.face AND f.from_cell = q.cell
  WHERE s.tenant_id = tenant AND q.tenant_id = tenant
    AND q.quarter >= COALESCE(tollgate_day_start(first, s.zone), '-infinity') AND q.quarter < COALESCE(tollgate_day_start(last + 1, s.zone), 'infinity')
  GROUP BY q.tenant_id, f.face, day, f.cell
$$;

-- Cut days anew. Whoever calls it holds the tenant's state.
CREATE FUNCTION tollgate_cost_recut(tenant uuid, first date, last date) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  DELETE FROM cost_days d WHERE d.tenant_id = tenant AND d.day >= COALESCE(first, '-infinity') AND d.day <= COALESCE(last, 'infinity');
  INSERT INTO cost_days SELECT c.* FROM tollgate_cost_cut(tenant, first, last) c WHERE c.latency <> ''
    OR (c.calls, c.amount, c.tokens, c.requests, c.llm_amount, c.input_tokens, c.cached_tokens, c.output_tokens, c.reasoning_tokens)
       <> (0, 0, 0, 0, 0, 0, 0, 0, 0);
END $$;

-- The tenant has moved to another time zone: in the transaction of that change.
CREATE FUNCTION tollgate_cost_rezone(into_zone text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE mine uuid := current_setting('app.tenant_id')::uuid;
BEGIN
  -- Waits for the sealer's round; the next waits for this change.
  PERFORM FROM cost_states s WHERE s.tenant_id = mine AND s.zone <> into_zone FOR NO KEY UPDATE;
  IF FOUND THEN
    UPDATE cost_states SET zone = into_zone WHERE tenant_id = mine;
    PERFORM tollgate_cost_recut(mine, NULL, NULL);
  END IF;
END $$;

-- Count the newest rows that nobody has counted, about `most` of them and whole quarters. True: there are more.
CREATE FUNCTION tollgate_cost_build(tenant uuid, most integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  upper uuid;
  lowest uuid;
  start timestamptz;
  month timestamptz;
BEGIN
  -- The sealer waits, so that nothing changes sides in between.
  PERFORM pg_advisory_xact_lock(7420003);
  -- The tenant may be moving to another zone.
  PERFORM FROM tenants t WHERE t.tenant_id = tenant FOR SHARE;
  INSERT INTO cost_states (tenant_id, zone) SELECT t.tenant_id, t.time_zone FROM tenants t WHERE t.tenant_id = tenant ON CONFLICT DO NOTHING;
  SELECT s.counted_from INTO upper FROM cost_states s WHERE s.tenant_id = tenant FOR NO KEY UPDATE;
  IF upper IS NULL OR upper = '00000000-0000-0000-0000-000000000000' THEN
    RETURN false;
  END IF;
  IF upper = 'ffffffff-ffff-ffff-ffff-ffffffffffff' THEN
    -- From the beginning. Sums may stand there that were given up; those of rows that have been dropped are all that there is of them.
    DELETE FROM cost_quarters q USING cost_states s WHERE s.tenant_id = tenant AND q.tenant_id = tenant AND q.quarter >= s.pruned_to;
    PERFORM tollgate_cost_recut(tenant, NULL, NULL);
  END IF;
  SELECT max(n.at) INTO start FROM (
    (SELECT tollgate_quarter(e.call_id) AS at FROM tool_call_events e WHERE e.tenant_id = tenant AND e.call_id < upper ORDER BY e.call_id DESC LIMIT 1)
    UNION ALL
    (SELECT tollgate_quarter(q.llm_request_id) FROM llm_requests q WHERE q.tenant_id = tenant AND q.llm_request_id < upper
     ORDER BY q.llm_request_id DESC LIMIT 1)) n;
  IF start IS NULL THEN
    UPDATE cost_states SET counted_from = '00000000-0000-0000-0000-000000000000' WHERE tenant_id = tenant;
    RETURN false;
  END IF;
  month := GREATEST(start - interval '1 month', to_timestamp(0));
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

-- ---------------------------------------------------------------- checking them

-- What may be compared of a time: what is counted, and whose rows are still there.
CREATE FUNCTION tollgate_cost_span(tenant uuid, INOUT low timestamptz, INOUT high timestamptz)
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  SELECT GREATEST(low, s.pruned_to, tollgate_quarter(s.counted_from)), GREATEST(high, low, s.pruned_to, tollgate_quarter(s.counted_from))
  FROM cost_states s WHERE s.tenant_id = tenant
$$;

-- How many sums of these quarters and their days differ from what the rows say, and by how much in all. In one snapshot, as a report.
CREATE FUNCTION tollgate_cost_drift(tenant uuid, since timestamptz, until timestamptz, OUT cells bigint, OUT calls bigint, OUT amount numeric, OUT tokens bigint,
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
    WHERE s.tenant_id = tenant
    GROUP BY x.face, x.day, x.cell
    HAVING (sum(x.sign * x.calls), sum(x.sign * x.amount), sum(x.sign * x.tokens), sum(x.sign * x.requests), sum(x.sign * x.llm_amount),
            sum(x.sign * x.input_tokens), sum(x.sign * x.cached_tokens), sum(x.sign * x.output_tokens), sum(x.sign * x.reasoning_tokens))
           <> (0, 0, 0, 0, 0, 0, 0, 0, 0)
        OR COALESCE(tollgate_latency_sum(string_agg(x.latency, ''::bytea) FILTER (WHERE x.sign = 1)), '')
           IS DISTINCT FROM COALESCE(tollgate_latency_sum(string_agg(x.latency, ''::bytea) FILTER (WHERE x.sign = -1)), '')) d;
  cells := cells + more;
END $$;

-- Make these quarters and their days anew from the rows.
CREATE FUNCTION tollgate_cost_repair(tenant uuid, since timestamptz, until timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  low timestamptz;
  high timestamptz;
  in_zone text;
BEGIN
  PERFORM pg_advisory_xact_lock(7420003);
  SELECT s.zone INTO in_zone FROM cost_states s WHERE s.tenant_id = tenant FOR NO KEY UPDATE;
  SELECT s.low, s.high INTO low, high FROM tollgate_cost_span(tenant, since, until) s;
  IF low IS NULL OR low >= high THEN
    RETURN;
  END IF;
  DELETE FROM cost_quarters q WHERE q.tenant_id = tenant AND q.quarter >= low AND q.quarter < high;
  PERFORM tollgate_cost_add(ARRAY(SELECT r FROM tollgate_cost_rows(tenant, tollgate_uuid_floor(low), tollgate_uuid_floor(high), true, true) r));
  PERFORM tollgate_cost_recut(tenant, (low AT TIME ZONE in_zone)::date, ((high - interval '15 minutes') AT TIME ZONE in_zone)::date);
END $$;

-- The next stretch of time to check from here on: a day, or less where it has more than `most` rows. Null: there are no later rows.
CREATE FUNCTION tollgate_cost_stretch(tenant uuid, most integer, INOUT since timestamptz, OUT until timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  last uuid;
BEGIN
  SELECT s.low INTO since FROM tollgate_cost_span(tenant, since, since) s;
  -- The first row or sum that comes.
  SELECT min(n.at) INTO since FROM (
    (SELECT tollgate_quarter(e.call_id) AS at FROM tool_call_events e WHERE e.tenant_id = tenant AND e.call_id >= tollgate_uuid_floor(since) ORDER BY e.call_id LIMIT 1)
    UNION ALL
    (SELECT tollgate_quarter(f.llm_request_id) FROM llm_forwards f WHERE f.tenant_id = tenant AND f.llm_request_id >= tollgate_uuid_floor(since)
     ORDER BY f.llm_request_id LIMIT 1)
    UNION ALL
    (SELECT min(q.quarter) FROM cost_quarters q WHERE q.tenant_id = tenant AND q.face = 0 AND q.quarter >= since)
    UNION ALL
    (SELECT min(q.quarter) FROM cost_quarters q WHERE q.tenant_id = tenant AND q.face = 2 AND q.quarter >= since)) n;
  until := since + interval '1 day';
  SELECT min(n.id::text)::uuid INTO last FROM (
    (SELECT e.call_id AS id FROM tool_call_events e WHERE e.tenant_id = tenant AND e.call_id >= tollgate_uuid_floor(since)
       AND e.call_id < tollgate_uuid_floor(until) ORDER BY e.call_id OFFSET most LIMIT 1)
    UNION ALL
    (SELECT f.llm_request_id FROM llm_forwards f WHERE f.tenant_id = tenant AND f.llm_request_id >= tollgate_uuid_floor(since)
       AND f.llm_request_id < tollgate_uuid_floor(until) ORDER BY f.llm_request_id OFFSET most LIMIT 1)) n;
  IF last IS NOT NULL THEN
    until := GREATEST(tollgate_quarter(last), since + interval '15 minutes');
  END IF;
END $$;

CREATE FUNCTION tollgate_cost_checked(tenant uuid, until timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$ UPDATE cost_states SET checked_to = until WHERE tenant_id = tenant $$;

-- The rows of these tenants before `until` are dropped, in the same transaction; what they came to stays.
CREATE FUNCTION tollgate_cost_pruned(tenants uuid[], until timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  UPDATE cost_states SET pruned_to = GREATEST(pruned_to, until) WHERE tenant_id = ANY (tenants)
$$;

-- ---------------------------------------------------------------- reading them

-- How a report from `low` to `high`, starts of quarters, is put together: what of it is counted, and the days that it has whole (`first`
-- to `last`, from the start of the one to the end of the other). `waiting`: how many entries have no place in the log yet.
CREATE FUNCTION tollgate_cost_layout(INOUT low timestamptz, INOUT high timestamptz, OUT zone text, OUT first date, OUT last date,
  OUT first_at timestamptz, OUT last_at timestamptz, OUT waiting bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE counted timestamptz;
BEGIN
  SELECT s.zone, tollgate_quarter(s.counted_from) INTO zone, counted FROM cost_states s WHERE s.tenant_id = current_setting('app.tenant_id')::uuid;
  low := GREATEST(low, COALESCE(counted, high));
  IF low >= high THEN
    high := low;
    RETURN;
  END IF;
  SELECT COALESCE(sum(octet_length(b.entries) / 69), 0) INTO waiting FROM audit_batches b;
  -- The day of the quarter before and the day of the one behind are not whole.
  first := ((low - interval '15 minutes') AT TIME ZONE zone)::date + 1;
  last := (high AT TIME ZONE zone)::date - 1;
  first_at := tollgate_day_start(first, zone);
  last_at := tollgate_day_start(last + 1, zone);
END $$;

-- What entries that wait for their place in the log change. See evidence::batch for their form: tenant 16, kind 1, id 16, sequence 4,
-- leaf 32 bytes; kinds 1 request, 3 intent, 4 completion, 5 resolution, 10 end of a request, 11 its resolution.
CREATE FUNCTION tollgate_cost_tail(low uuid, high uuid) RETURNS SETOF tollgate_cost
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  mine uuid := current_setting('app.tenant_id')::uuid;
  ids uuid[];
  kinds smallint[];
  xids text[];
BEGIN
  SELECT array_agg(n.id), array_agg(n.kind), array_agg(n.xid) INTO ids, kinds, xids FROM (
    SELECT encode(substr(b.bytes, 69 * k + 18, 16), 'hex')::uuid AS id,
           CASE get_byte(b.bytes, 69 * k + 16) WHEN 1 THEN 3 WHEN 10 THEN 4 WHEN 11 THEN 5
             ELSE get_byte(b.bytes, 69 * k + 16) - 3 END::smallint AS kind, b.xid
    -- Concatenated, so that it is fetched once and not for each of its parts.
    FROM (SELECT a.xid::text AS xid, a.entries || ''::bytea AS bytes, octet_length(a.entries) / 69 AS count FROM audit_batches a
          WHERE octet_length(a.entries) % 69 = 0 OFFSET 0) b
    CROSS JOIN LATERAL generate_series(0, b.count - 1) k
    WHERE substr(b.bytes, 69 * k + 1, 16) = uuid_send(mine) AND get_byte(b.bytes, 69 * k + 16) IN (1, 3, 4, 5, 10, 11)) n
  WHERE n.id >= low AND n.id < high;
  IF ids IS NOT NULL THEN
    RETURN QUERY SELECT * FROM tollgate_cost_deltas(array_fill(mine, ARRAY[cardinality(ids)]), ids, kinds, xids);
  END IF;
END $$;

-- The rows themselves: of less than a quarter, and of what nobody has counted yet.
CREATE FUNCTION tollgate_cost_raw(low uuid, high uuid, with_model boolean) RETURNS SETOF tollgate_cost
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT * FROM tollgate_cost_rows(current_setting('app.tenant_id')::uuid, low, high, false, with_model)
$$;

-- ---------------------------------------------------------------- who may do what

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['cost_states', 'cost_cells', 'cost_quarters', 'cost_days'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY one_tenant ON %I TO tollgate_app USING (tenant_id = (SELECT current_setting(''app.tenant_id'')::uuid))', t);
    EXECUTE format('CREATE POLICY owner_counts ON %I TO %I USING (true) WITH CHECK (true)', t, CURRENT_USER);
  END LOOP;
  CREATE POLICY control_reads ON cost_states FOR SELECT TO tollgate_control USING (true);
END $$;
GRANT SELECT ON cost_states, cost_cells, cost_quarters, cost_days TO tollgate_app;
GRANT SELECT ON cost_states TO tollgate_control;

REVOKE ALL ON FUNCTION tollgate_cost_rows(uuid, uuid, uuid, boolean, boolean), tollgate_cost_deltas(uuid[], uuid[], smallint[], text[]),
  tollgate_cost_add(tollgate_cost[]), tollgate_roll(uuid[], uuid[], smallint[], text[]), tollgate_cost_cut(uuid, date, date),
  tollgate_cost_recut(uuid, date, date), tollgate_cost_rezone(text), tollgate_cost_give_up(uuid[]), tollgate_cost_build(uuid, integer),
  tollgate_cost_span(uuid, timestamptz, timestamptz), tollgate_cost_drift(uuid, timestamptz, timestamptz),
  tollgate_cost_repair(uuid, timestamptz, timestamptz), tollgate_cost_stretch(uuid, integer, timestamptz),
  tollgate_cost_checked(uuid, timestamptz), tollgate_cost_pruned(uuid[], timestamptz), tollgate_cost_layout(timestamptz, timestamptz),
  tollgate_cost_tail(uuid, uuid), tollgate_cost_raw(uuid, uuid, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate_cost_layout(timestamptz, timestamptz), tollgate_cost_tail(uuid, uuid),
  tollgate_cost_raw(uuid, uuid, boolean), tollgate_cost_rezone(text) TO tollgate_app;
GRANT EXECUTE ON FUNCTION tollgate_roll(uuid[], uuid[], smallint[], text[]), tollgate_cost_build(uuid, integer),
  tollgate_cost_give_up(uuid[]), tollgate_cost_repair(uuid, timestamptz, timestamptz) TO tollgate_sealer;
GRANT EXECUTE ON FUNCTION tollgate_cost_drift(uuid, timestamptz, timestamptz), tollgate_cost_stretch(uuid, integer, timestamptz),
  tollgate_cost_checked(uuid, timestamptz), tollgate_cost_pruned(uuid[], timestamptz) TO tollgate_control;
