-- Every statement of the sinks. `{…}` are names of tables and columns, which come from the declaration of the stream;
-- `%(…)s` are values. Every write is idempotent, and its offset commits in the same transaction.

-- name: set_session
-- A writer that was stopped in the middle of a transaction must not hold its locks for good, a lock must not outwait
-- SIGTERM, and no setting of the server may change how a text is read.
SELECT set_config('lock_timeout', %(lock_timeout_ms)s::text, false),
       set_config('statement_timeout', %(statement_timeout_ms)s::text, false),
       set_config('idle_in_transaction_session_timeout', %(idle_timeout_ms)s::text, false),
       set_config('TimeZone', 'UTC', false),
       set_config('DateStyle', 'ISO, YMD', false);

-- name: ping
SELECT 1;

-- name: read_positions
-- Where to start reading.
SELECT topic, partition, next_offset FROM tally.sink_offsets;

-- name: lock_positions
-- Fence a second writer: whoever comes second waits here, and then sees what the first has written.
SELECT s.topic, s.partition, s.next_offset
  FROM tally.sink_offsets s
  JOIN unnest(%(topics)s::text[], %(partitions)s::integer[]) AS w (topic, partition) USING (topic, partition)
 ORDER BY s.topic, s.partition
   FOR UPDATE OF s;

-- name: add_positions
-- A partition that was never read before has no row to lock.
INSERT INTO tally.sink_offsets (topic, partition, next_offset, updated_at)
SELECT topic, partition, 0, now()
  FROM unnest(%(topics)s::text[], %(partitions)s::integer[]) AS w (topic, partition)
 ORDER BY topic, partition
    ON CONFLICT DO NOTHING;

-- name: move_positions
UPDATE tally.sink_offsets s
   SET next_offset = greatest(s.next_offset, w.next_offset), updated_at = now()
  FROM unnest(%(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[]) AS w (topic, partition, next_offset)
 WHERE s.topic = w.topic AND s.partition = w.partition;

-- name: stored_versions
-- Which version of these blocks is stored, and under which day its cells lie. `number` is the position in the arrays.
SELECT w.number, b.through, b.stored_on
  FROM unnest(%(partitions)s::integer[], %(buckets)s::bigint[], %(minutes)s::bigint[])
       WITH ORDINALITY AS w (source_partition, bucket, minute, number)
  JOIN {blocks} b
    ON b.source_partition = w.source_partition AND b.bucket = w.bucket
   AND b.minute_at = to_timestamp(w.minute::float8 * 60);

-- name: delete_cells
-- One block of one day: the day names the partition, so that Postgres looks into no other.
DELETE FROM {cells}
 WHERE stored_on = %(stored_on)s AND source_partition = %(partition)s AND bucket = %(bucket)s
   AND minute_at = to_timestamp(%(minute)s::float8 * 60);

-- name: copy_rows
-- Text by the block is the cheapest way in that was measured (design.md §9).
COPY {table} ({columns}) FROM STDIN;

-- name: save_versions
-- The rule of every reader once more: the greatest `through` wins.
INSERT INTO {blocks} AS b (source_partition, bucket, minute_at, through, stored_on)
SELECT source_partition, bucket, to_timestamp(minute::float8 * 60), through, stored_on
  FROM unnest(%(partitions)s::integer[], %(buckets)s::bigint[], %(minutes)s::bigint[], %(throughs)s::bigint[],
              %(days)s::date[]) AS w (source_partition, bucket, minute, through, stored_on)
    ON CONFLICT (source_partition, bucket, minute_at) DO UPDATE
       SET through = excluded.through, stored_on = excluded.stored_on
     WHERE b.through < excluded.through;

-- name: delete_events
-- The span's rows of an earlier delivery; they may lie in any day's partition.
DELETE FROM {events}
 WHERE source_partition = %(partition)s AND source_offset BETWEEN %(first)s AND %(last)s;

-- name: add_dead_letters
-- Identified by where the record came from, so a second delivery is no second row.
INSERT INTO tally.dead_letters (source_topic, source_partition, source_offset, reason, detail, stage, record_key,
                                record_value, record_headers, recorded_at)
SELECT w.topic, w.partition, w."offset", w.reason, w.detail, w.stage, w.key, w.value, w.headers::jsonb,
       to_timestamp(w.at_ms::float8 / 1000)
  FROM unnest(%(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[], %(reasons)s::text[],
              %(details)s::text[], %(stages)s::text[], %(keys)s::bytea[], %(values)s::bytea[], %(headers)s::text[],
              %(times_ms)s::bigint[])
       AS w (topic, partition, "offset", reason, detail, stage, key, value, headers, at_ms)
    ON CONFLICT DO NOTHING;

-- name: lock_days
-- Two sinks must not make or drop the same day at once.
SELECT pg_advisory_xact_lock(hashtext('tally.days'));

-- name: list_days
-- Names of a table's partitions.
SELECT c.relname
  FROM pg_inherits i
  JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = to_regclass(%(table)s);

-- name: create_day
-- CREATE TABLE … PARTITION OF would lock every reader out while it waits; attaching does not. The indexes come with it.
CREATE TABLE {day} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS);

-- name: attach_day
ALTER TABLE {table} ATTACH PARTITION {day} FOR VALUES FROM ({start}) TO ({end});

-- name: describe_day
COMMENT ON TABLE {day} IS {text};

-- name: drop_day
-- Waits for running reports no longer than lock_timeout; then the next sweep tries again.
DROP TABLE {day};

-- name: forget_versions
-- Versions of blocks whose cells were dropped with their day.
DELETE FROM {blocks} WHERE stored_on < %(kept_from)s;

-- name: forget_dead_letters
DELETE FROM tally.dead_letters WHERE recorded_at < to_timestamp(%(kept_from_ms)s::float8 / 1000);

-- name: find_event
-- The event minute of the row of one source position, whatever day it lies in.
SELECT floor(extract(epoch FROM occurred_at) / 60)::bigint
  FROM {events}
 WHERE source_partition = %(partition)s AND source_offset = %(offset)s
 LIMIT 1;

-- name: find_events_of
-- Where the events of one user and millisecond came from.
SELECT source_partition, source_offset
  FROM {events}
 WHERE {user} = %(user)s AND occurred_at = to_timestamp(0) + %(at_ms)s * interval '1 millisecond'
 ORDER BY source_partition, source_offset
 LIMIT %(rows_max)s;

-- name: find_version
-- How far the stored version of one block reaches.
SELECT through
  FROM {blocks}
 WHERE source_partition = %(partition)s AND bucket = %(bucket)s
   AND minute_at = to_timestamp(%(minute)s::float8 * 60);

-- name: find_dead_letter
SELECT reason, detail, stage, record_key, record_value, (extract(epoch FROM recorded_at) * 1000)::bigint
  FROM tally.dead_letters
 WHERE source_topic = %(topic)s AND source_partition = %(partition)s AND source_offset = %(offset)s;
