-- Remembered answers are sealed anew when keys are rotated; nothing else of them ever changes.
GRANT UPDATE (sealed_answer) ON idempotency_keys TO tollgate_app;
