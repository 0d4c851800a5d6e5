-- Statements of `sinks/erase.py`. `{…}` are names of tables and columns, `%(…)s` values.

-- name: set_patience
-- A table is scanned and rewritten, however large, and what Postgres says of it must be readable.
SELECT set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false),
       set_config('idle_in_transaction_session_timeout', '0', false), set_config('lc_messages', 'C', false);

-- name: count_events
SELECT count(*) FROM {events} WHERE {user} = ANY (%(users)s::text[]);

-- name: tables_holding
SELECT DISTINCT tableoid::regclass::text FROM {events} WHERE {user} = ANY (%(users)s::text[]);

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

-- name: rewrite_statistics
VACUUM (FULL) pg_catalog.pg_statistic;

-- name: checkpoint
-- Files that were replaced leave the disk.
CHECKPOINT;
