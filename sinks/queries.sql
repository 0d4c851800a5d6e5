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

-- name: touch_hours
-- One row more for each hour and source partition of a transaction: whoever rolls an hour up sees whether it is the latest.
INSERT INTO {touched} AS t (stored_on, hour_at, source_partition, version, touched_at)
SELECT stored_on, to_timestamp(hour::float8 * 3600), source_partition, 1, now()
  FROM unnest(%(days)s::date[], %(hours)s::bigint[], %(partitions)s::integer[]) AS w (stored_on, hour, source_partition)
 ORDER BY stored_on, hour, source_partition
    ON CONFLICT (stored_on, hour_at, source_partition) DO UPDATE SET version = t.version + 1, touched_at = excluded.touched_at;

-- name: lock_rollups
-- One at a time rolls up, of all processes; it lasts until the transaction ends.
SELECT pg_try_advisory_xact_lock(hashtext('tally.rollups'));

-- name: allow_more
-- The groups of a busy hour fit into memory, and it may take longer than what writers wait for: nobody does.
SELECT set_config('work_mem', %(memory)s::text, true), set_config('statement_timeout', %(timeout_ms)s::text, true);

-- name: due_hours
-- Hours whose minutes were written since they were rolled up: those that are over, quiet for a while, or waiting for long.
SELECT t.stored_on, (extract(epoch FROM t.hour_at) / 3600)::bigint
  FROM {touched} t
  LEFT JOIN {rolled} r USING (stored_on, hour_at)
 WHERE t.stored_on < %(stored_before)s OR t.hour_at < to_timestamp(%(over_before)s)
 GROUP BY t.stored_on, t.hour_at, r.version, r.rolled_at
HAVING sum(t.version) IS DISTINCT FROM r.version
   AND (t.stored_on < %(stored_before)s OR max(t.touched_at) < to_timestamp(%(quiet_since)s)
        OR coalesce(r.rolled_at, t.hour_at) < to_timestamp(%(waiting_since)s))
 ORDER BY t.stored_on, t.hour_at
 LIMIT %(hours_max)s;

-- name: due_days
-- Days that are over, or no longer kept by minutes, whose hours are all whole and were not when they were rolled up.
SELECT h.stored_on, h.day, sum(h.version)::bigint
  FROM (SELECT t.stored_on, floor(extract(epoch FROM t.hour_at) / 86400)::bigint AS day, sum(t.version) AS version,
               sum(t.version) = r.version AS whole
          FROM {touched} t
          LEFT JOIN {hours_rolled} r USING (stored_on, hour_at)
         GROUP BY t.stored_on, t.hour_at, r.version) h
  LEFT JOIN {rolled} d ON d.stored_on = h.stored_on AND d.day_at = to_timestamp(h.day::float8 * 86400)
 WHERE h.stored_on < %(stored_before)s OR h.day < %(over_before)s
 GROUP BY h.stored_on, h.day, d.version
HAVING coalesce(bool_and(h.whole), false) AND sum(h.version) IS DISTINCT FROM d.version
   AND bool_and(h.whole IS NOT NULL)
 ORDER BY h.stored_on, h.day
 LIMIT %(days_max)s;

-- name: hour_version
SELECT coalesce(sum(version), 0)::bigint
  FROM {touched}
 WHERE stored_on = %(stored_on)s AND hour_at = to_timestamp(%(start)s);

-- name: day_version
-- The version of a day whose hours are all whole; NULL where one is not.
SELECT CASE WHEN bool_and(coalesce(h.whole, false)) THEN sum(h.version)::bigint END
  FROM (SELECT sum(t.version) AS version, sum(t.version) = r.version AS whole
          FROM {touched} t
          LEFT JOIN {hours_rolled} r USING (stored_on, hour_at)
         WHERE t.stored_on = %(stored_on)s
           AND t.hour_at >= to_timestamp(%(start)s) AND t.hour_at < to_timestamp(%(end)s)
         GROUP BY t.hour_at, r.version) h;

-- name: remove_rolled
DELETE FROM {cells} WHERE stored_on = %(stored_on)s AND {at} = to_timestamp(%(start)s);

-- name: roll_hour
-- From minutes into every slice at once; the number of a slice has a bit for each dimension that is kept.
INSERT INTO {cells} (stored_on, hour_at, slice, {dimensions}, {measures})
SELECT stored_on, to_timestamp(%(start)s), {number}, {dimensions}, {added}
  FROM {minutes}
 WHERE stored_on = %(stored_on)s AND minute_at >= to_timestamp(%(start)s) AND minute_at < to_timestamp(%(end)s)
 GROUP BY stored_on, GROUPING SETS ({sets});

-- name: roll_day
-- From whole hours, slice by slice.
INSERT INTO {cells} (stored_on, day_at, slice, {dimensions}, {measures})
SELECT stored_on, to_timestamp(%(start)s), slice, {dimensions}, {added}
  FROM {hours}
 WHERE stored_on = %(stored_on)s AND hour_at >= to_timestamp(%(start)s) AND hour_at < to_timestamp(%(end)s)
 GROUP BY stored_on, slice, {dimensions};

-- name: save_rolled
INSERT INTO {rolled} AS r (stored_on, {at}, version, rolled_at)
VALUES (%(stored_on)s, to_timestamp(%(start)s), %(version)s, now())
    ON CONFLICT (stored_on, {at}) DO UPDATE SET version = excluded.version, rolled_at = excluded.rolled_at;

-- name: lock_writers
-- Nobody writes blocks while those of a day are settled.
SELECT 1 FROM tally.sink_offsets WHERE topic = %(topic)s ORDER BY partition FOR UPDATE;

-- name: move_open_cells
-- A block whose bucket is still open will be replaced: its rows move on to a day that is kept, or they would count twice.
WITH open AS (
    SELECT source_partition, bucket, minute_at, stored_on
      FROM {blocks}
     WHERE stored_on < %(kept_from)s AND (through + 1) %% %(bucket_offsets)s <> 0
), moved AS (
    DELETE FROM {minutes} c
     USING open o
     WHERE c.stored_on = o.stored_on AND c.stored_on < %(kept_from)s AND c.source_partition = o.source_partition
       AND c.bucket = o.bucket AND c.minute_at = o.minute_at
    RETURNING c.source_partition, c.bucket, c.minute_at, {dimensions}, {measures}
)
INSERT INTO {minutes} (stored_on, source_partition, bucket, minute_at, {dimensions}, {measures})
SELECT %(today)s, source_partition, bucket, minute_at, {dimensions}, {measures} FROM moved;

-- name: move_open_versions
UPDATE {blocks} b
   SET stored_on = %(today)s
  FROM (SELECT source_partition, bucket, minute_at, stored_on FROM {blocks}
         WHERE stored_on < %(kept_from)s AND (through + 1) %% %(bucket_offsets)s <> 0) o
 WHERE b.source_partition = o.source_partition AND b.bucket = o.bucket AND b.minute_at = o.minute_at
RETURNING o.stored_on, floor(extract(epoch FROM b.minute_at) / 60)::bigint, b.source_partition;

-- name: settle_hours
-- The minutes of these days are about to go: what is rolled up of them is final, whatever version it had.
DELETE FROM {touched} WHERE stored_on < %(kept_from)s;

-- name: settle_rolled
UPDATE {rolled} SET version = 0 WHERE stored_on < %(kept_from)s AND version <> 0;

-- name: expired_rolled
-- What is rolled up of days that are no longer kept, oldest first.
SELECT stored_on, extract(epoch FROM {at})::bigint
  FROM {rolled}
 WHERE stored_on < %(kept_from)s
 ORDER BY stored_on, {at}
 LIMIT %(rows_max)s;

-- name: forget_rolled
DELETE FROM {rolled} WHERE stored_on = %(stored_on)s AND {at} = to_timestamp(%(start)s);

-- name: waiting_hours
-- Hours that are over and not whole: what questions still add up from minutes.
SELECT count(*) FROM (
    SELECT 1 FROM {touched} t LEFT JOIN {rolled} r USING (stored_on, hour_at)
     WHERE t.hour_at < to_timestamp(%(over_before)s)
     GROUP BY t.stored_on, t.hour_at, r.version
    HAVING sum(t.version) IS DISTINCT FROM r.version) w;
