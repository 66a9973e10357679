-- What an erasure took, payload by payload: its admin event commits to the list by a Merkle root, so a row that somebody adds
-- later excuses nothing, and that results were erased does not excuse arguments that are missing.

ALTER TABLE audit_erased
  -- evidence::line::Part: 0 arguments, 1 result of a call; 2 source, 3 result, 4 logs, 5 error, 6 journal of a script run.
  ADD COLUMN part smallint NOT NULL DEFAULT 0 CHECK (part BETWEEN 0 AND 6),
  -- Of a journal; otherwise 0.
  ADD COLUMN sequence integer NOT NULL DEFAULT 0 CHECK (sequence >= 0),
  DROP CONSTRAINT audit_erased_pkey,
  -- The row first: whoever misses a payload asks what became of it. With the erasure, so that a row which somebody planted does
  -- not stand in the way of an honest one.
  ADD PRIMARY KEY (tenant_id, row_id, part, sequence, erasure_id);
-- The list of an erasure, in the order of its leaves. Erasures are rare: it costs the writers of the trail nothing.
CREATE INDEX audit_erased_list ON audit_erased (tenant_id, erasure_id, row_id, part, sequence);

-- Rows of before named no part, and no event commits to them: they say that it was erased, and prove nothing.
ALTER TABLE audit_erased NO FORCE ROW LEVEL SECURITY;
INSERT INTO audit_erased (tenant_id, row_id, erasure_id, part)
SELECT e.tenant_id, e.row_id, e.erasure_id, p FROM audit_erased e CROSS JOIN generate_series(1, 6) p;
ALTER TABLE audit_erased FORCE ROW LEVEL SECURITY;
