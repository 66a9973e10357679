-- What was asked of people, and who drove a run, goes with the month of the trail to which it belongs. Until then nobody takes it
-- away: the role that may is the one that retires months, and of approvals it reaches only those that are decided.
DROP TRIGGER append_only ON script_run_turns;
CREATE TRIGGER append_only BEFORE UPDATE ON script_run_turns FOR EACH ROW EXECUTE FUNCTION tollgate_append_only('rows');
GRANT DELETE ON approvals, script_run_turns TO tollgate_control;
GRANT SELECT, DELETE ON approval_confirmations TO tollgate_control;
CREATE POLICY control_retires ON approvals FOR DELETE TO tollgate_control USING (state IN ('denied', 'expired', 'used'));
CREATE POLICY control_retires ON script_run_turns FOR DELETE TO tollgate_control USING (true);
CREATE POLICY control_reads ON approval_confirmations FOR SELECT TO tollgate_control USING (true);
CREATE POLICY control_retires ON approval_confirmations FOR DELETE TO tollgate_control USING (true);
