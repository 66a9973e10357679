-- A script's journal also holds what the gateway itself answered, the time and random numbers: no call stands behind those.
ALTER TABLE script_journal ALTER call_id DROP NOT NULL;
