-- Whether a batch is in the database, sealed or waiting to be: what a writer asks before it repeats one whose commit nobody answered.
-- The writer's role reads nothing else.
CREATE FUNCTION tollgate_batch_known(writer uuid, batch bigint, batch_root bytea) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT EXISTS (SELECT FROM audit_batches b WHERE b.writer_id = writer AND b.sequence = batch AND b.root = batch_root)
      OR EXISTS (SELECT FROM audit_writers w WHERE w.writer_id = writer AND w.sequence >= batch)
$$;
REVOKE ALL ON FUNCTION tollgate_batch_known(uuid, bigint, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate_batch_known(uuid, bigint, bytea) TO tollgate_writer;
