-- What results of tools have looked like that do not say so themselves: types and names of fields, never a value (codemode::seen).
-- One row a tool: with another definition it begins anew.
CREATE TABLE tool_shapes (
  tenant_id         uuid NOT NULL,
  tool_id           uuid NOT NULL,
  definition_sha256 bytea NOT NULL,
  -- JSON text.
  shape             text NOT NULL CHECK (length(shape) <= 262144),
  updated_at        timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, tool_id)
);
GRANT SELECT, INSERT, UPDATE ON tool_shapes TO tollgate_app;
ALTER TABLE tool_shapes ENABLE ROW LEVEL SECURITY;
ALTER TABLE tool_shapes FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON tool_shapes TO tollgate_app USING (tenant_id = (SELECT current_setting('app.tenant_id')::uuid));
