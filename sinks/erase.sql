-- Statements of `sinks/erase.py`. `{…}` are names of tables and columns, `%(…)s` values.

-- name: set_patience
-- A table is scanned and rewritten, however large, and what Postgres says of it must be readable.
SELECT set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false),
       set_config('idle_in_transaction_session_timeout', '0', false), set_config('lc_messages', 'C', false);

-- name: tables_holding
SELECT tableoid::regclass::text, count(*) FROM {events} WHERE {user} = ANY (%(users)s::text[]) GROUP BY tableoid;

-- name: find_table
SELECT to_regclass(%(name)s)::text WHERE to_regclass(%(name)s) IS NOT NULL;

-- name: erase_events
-- Rows of later events are those of a user who came back.
WITH erased AS (
    DELETE FROM {events} e
     USING unnest(%(partitions)s::integer[], %(befores)s::bigint[]) AS w (source_partition, before)
     WHERE e.{user} = ANY (%(users)s::text[])
       AND e.source_partition = w.source_partition AND e.source_offset < w.before
    RETURNING e.tableoid
)
SELECT tableoid::regclass::text, count(*) FROM erased GROUP BY tableoid;

-- name: erase_submissions
-- The same, and what the reports have counted of what went.
WITH erased AS (
    DELETE FROM {events} e
     USING unnest(%(partitions)s::integer[], %(befores)s::bigint[]) AS w (source_partition, before)
     WHERE e.{user} = ANY (%(users)s::text[])
       AND e.source_partition = w.source_partition AND e.source_offset < w.before
    RETURNING e.tableoid, e.source_partition, e.datapoint, (e.occurred_at AT TIME ZONE 'UTC')::date AS day, e.value
)
SELECT tableoid::regclass::text, NULL, NULL, NULL, NULL, count(*) FROM erased GROUP BY tableoid
UNION ALL
SELECT NULL, datapoint, day, source_partition, value, count(*) FROM erased
 WHERE datapoint = ANY (%(reported)s::text[]) AND value <> ''
 GROUP BY datapoint, day, source_partition, value;

-- name: erase_counts
-- A text that no row has any more may be about who is erased. The sinks leave some too: they delete rows before we do.
DELETE FROM tally.value_counts WHERE value_count = 0;

-- name: read_letters
SELECT source_topic, source_partition, source_offset, record_key, record_value, record_headers FROM tally.dead_letters;

-- name: erase_letters
DELETE FROM tally.dead_letters d
 USING unnest(%(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[]) AS w (topic, partition, "offset")
 WHERE d.source_topic = w.topic AND d.source_partition = w.partition AND d.source_offset = w."offset";

-- name: note_rewrite
-- In the transaction of the deletion: a run that was killed before the bytes were gone is finished by the next.
COMMENT ON TABLE {table} IS {text};

-- name: tables_to_rewrite
SELECT c.oid::regclass::text, coalesce(obj_description(c.oid, 'pg_class'), '')
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'tally' AND c.relkind = 'r' AND obj_description(c.oid, 'pg_class') LIKE '%%' || %(note)s;

-- name: describe
SELECT coalesce(obj_description(%(table)s::regclass, 'pg_class'), '');

-- name: rewrite
-- A plain VACUUM frees the space and leaves the bytes in it; this one writes another file.
VACUUM (FULL, VERBOSE, ANALYZE) {table};

-- name: analyze_events
-- Frequent values and bounds of the columns are kept in the statistics, of the whole table too.
ANALYZE {events};

-- name: can_clear_statistics
-- Since Postgres 18.
SELECT to_regproc('pg_catalog.pg_clear_attribute_stats') IS NOT NULL;

-- name: clear_statistics
-- ANALYZE leaves those of a table as they were when it finds no row in it.
SELECT pg_clear_attribute_stats(s.schemaname, s.tablename, s.attname, s.inherited)
  FROM pg_stats s
  JOIN pg_namespace n ON n.nspname = s.schemaname
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename
 WHERE s.schemaname = 'tally' AND c.reltuples = 0;

-- name: delete_statistics
-- The same by hand, for which Postgres wants a superuser.
DELETE FROM pg_catalog.pg_statistic s
 USING pg_class c, pg_namespace n
 WHERE c.oid = s.starelid AND n.oid = c.relnamespace AND n.nspname = 'tally' AND c.reltuples = 0;

-- name: rewrite_statistics
VACUUM (FULL) pg_catalog.pg_statistic;

-- name: checkpoint
-- Files that were replaced leave the disk.
CHECKPOINT;
