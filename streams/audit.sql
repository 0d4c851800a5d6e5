-- Statements of `streams/audit.py`; `%(…)s` are values.

-- name: add_row
-- When, and by which role, Postgres says itself.
INSERT INTO tally.audit (action, stage, begun_id, who, os_user, detail)
VALUES (%(action)s, %(stage)s, %(begun)s, %(who)s, %(os_user)s, %(detail)s::jsonb)
RETURNING id;

-- name: find_table
SELECT to_regclass('tally.audit');
