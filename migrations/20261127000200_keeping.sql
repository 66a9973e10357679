-- What a tenant decides about its trail, carried out: the form of a payload in the view, and retention that holds up nobody.

-- As before, with the forms at its end.
CREATE OR REPLACE VIEW tool_calls WITH (security_invoker = true) AS
SELECT i.tenant_id, i.call_id, i.llm_request_id, i.origin, i.script_run_id, i.sequence, i.key_id, i.team_id,
       i.upstream_id, i.upstream_name, i.tool_id, i.tool_name, i.definition_sha256, i.decision, i.reason,
       COALESCE(d.outcome, i.outcome) AS outcome,
       CASE WHEN d.outcome IS NULL THEN i.error ELSE d.error END AS error,
       i.at AS opened_at,
       COALESCE(d.at, CASE WHEN i.outcome IS NOT NULL THEN i.at END) AS closed_at,
       COALESCE(d.latency_us, i.latency_us) AS latency_us,
       i.price_id, COALESCE(d.amount_picos, i.amount_picos) AS amount_picos, i.currency,
       i.worker_id, i.arguments_sha256, d.result_sha256, i.arguments_form, d.result_form
FROM tool_call_events i
LEFT JOIN LATERAL (
  SELECT e.outcome, e.error, e.at, e.latency_us, e.amount_picos, e.result_sha256, e.result_form FROM tool_call_events e
  WHERE e.tenant_id = i.tenant_id AND e.call_id = i.call_id AND e.kind > 0 ORDER BY e.kind LIMIT 1) d ON true
WHERE i.kind = 0;

-- Those of `going` that have rows in the month of `at`: whatever else is partitioned hangs on one of these three.
CREATE FUNCTION tollgate_retirable(at timestamptz, going uuid[]) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp SET timezone = 'UTC' AS $$
  SELECT t.id FROM unnest(going) AS t(id)
  CROSS JOIN (SELECT tollgate_uuid_floor(date_trunc('month', at)) AS low,
                     tollgate_uuid_floor(date_trunc('month', at) + interval '1 month') AS high) m
  WHERE EXISTS (SELECT FROM tool_call_events e WHERE e.tenant_id = t.id AND e.call_id >= m.low AND e.call_id < m.high)
     OR EXISTS (SELECT FROM script_run_starts s WHERE s.tenant_id = t.id AND s.script_run_id >= m.low AND s.script_run_id < m.high)
     OR EXISTS (SELECT FROM llm_requests r WHERE r.tenant_id = t.id AND r.llm_request_id >= m.low AND r.llm_request_id < m.high)
$$;
REVOKE ALL ON FUNCTION tollgate_retirable(timestamptz, uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate_retirable(timestamptz, uuid[]) TO tollgate_control;

-- Drop the month of `at` for all tenants but those in `keep`. Their rows are copied first, into tables that belong to nobody
-- yet, while only the old month is closed to writers; then the tables change places, which takes moments. Nothing is ever
-- deleted row by row but the index of the log. Returns the tables dropped. A default partition is left as it is.
CREATE OR REPLACE FUNCTION tollgate_retire(at timestamptz, keep uuid[]) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  parent text;
  month timestamptz := date_trunc('month', at);
  first_id uuid := tollgate_uuid_floor(month);
  end_id uuid := tollgate_uuid_floor(month + interval '1 month');
  suffix text := to_char(month, 'YYYYMM');
  part text;
  names text;
  key_column text;
  survivors boolean;
  going text[] := '{}';
BEGIN
  PERFORM pg_advisory_xact_lock(7420001);
  -- Whoever waits for these locks holds up those behind it: better to try again later.
  PERFORM set_config('lock_timeout', '2s', true);
  FOREACH parent IN ARRAY tollgate_audit_parents() LOOP
    part := format('%s_p%s', parent, suffix);
    CONTINUE WHEN to_regclass(format('%I', part)) IS NULL;
    going := going || parent;
    EXECUTE format('LOCK TABLE %I IN SHARE ROW EXCLUSIVE MODE', part);
    EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE tenant_id = ANY($1))', part) INTO survivors USING keep;
    CONTINUE WHEN NOT survivors;
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO names
    FROM pg_attribute WHERE attrelid = format('%I', parent)::regclass AND attnum > 0 AND NOT attisdropped;
    SELECT a.attname INTO key_column FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
    WHERE p.partrelid = format('%I', parent)::regclass;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part || '_kept', parent);
    EXECUTE format('INSERT INTO %I (%s) SELECT %s FROM %I WHERE tenant_id = ANY($1)', part || '_kept', names, names, part) USING keep;
    -- So that nothing has to be read again when it becomes a partition.
    EXECUTE format('ALTER TABLE %I ADD CONSTRAINT tollgate_month CHECK (%I >= %L AND %I < %L)', part || '_kept', key_column, first_id, key_column, end_id);
  END LOOP;
  -- The seals stay, and with them the chain; which rows they held goes with the rows. The log of the whole installation, under
  -- the nil id, has no rows that retention drops.
  DELETE FROM audit_entries e USING audit_seals s
  WHERE s.tenant_id = e.tenant_id AND s.sequence = e.sequence AND NOT e.tenant_id = ANY(keep) AND s.high < end_id
    AND e.tenant_id <> '00000000-0000-0000-0000-000000000000';
  FOREACH parent IN ARRAY going LOOP
    EXECUTE format('LOCK TABLE ONLY %I IN ACCESS EXCLUSIVE MODE', parent);
  END LOOP;
  FOREACH parent IN ARRAY going LOOP
    part := format('%s_p%s', parent, suffix);
    EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', parent, part);
    EXECUTE format('DROP TABLE %I', part);
    CONTINUE WHEN to_regclass(format('%I', part || '_kept')) IS NULL;
    EXECUTE format('ALTER TABLE %I RENAME TO %I', part || '_kept', part);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, part, first_id, end_id);
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT tollgate_month', part);
  END LOOP;
  RETURN cardinality(going);
END $$;
