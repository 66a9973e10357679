-- Which languages scripts may be written in; the first is meant where a model says none.

CREATE FUNCTION code_languages_fit(languages text[]) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT cardinality(languages) BETWEEN 1 AND 2 AND languages <@ ARRAY['python', 'typescript']
     AND (cardinality(languages) = 1 OR languages[1] <> languages[2])
$$;

-- What a key of the tenant offers that says nothing of its own.
ALTER TABLE tenants ADD COLUMN code_languages text[] NOT NULL DEFAULT '{python}' CHECK (code_languages_fit(code_languages));
-- Null: the tenant's.
ALTER TABLE virtual_keys ADD COLUMN code_languages text[] CHECK (code_languages_fit(code_languages));
