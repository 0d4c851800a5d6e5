-- Every statement of the page's data. `{…}` are names of tables and columns, which come from the declaration of the stream, and
-- the parts below; `%(…)s` are values. All of one answer run in one snapshot, read only.

-- name: set_session
-- A question may not outlive its asker, and no setting of the server may change how a text or an instant is read.
SELECT set_config('statement_timeout', %(statement_timeout_ms)s::text, false),
       set_config('lock_timeout', %(statement_timeout_ms)s::text, false),
       set_config('idle_in_transaction_session_timeout', %(idle_timeout_ms)s::text, false),
       set_config('TimeZone', 'UTC', false),
       set_config('jit', 'off', false);

-- name: positions
-- Up to where the changelog of the blocks is applied.
SELECT partition, next_offset FROM tally.sink_offsets WHERE topic = %(topic)s;

-- name: hour_states
-- Of each hour and day of arrival: whether it is whole (sinks/rollups.py), and whether its minutes are still kept.
SELECT coalesce(t.stored_on, r.stored_on),
       extract(epoch FROM coalesce(t.hour_at, r.hour_at))::bigint,
       coalesce(coalesce(t.version, 0) = r.version, false),
       t.version IS NOT NULL
  FROM (SELECT stored_on, hour_at, sum(version) AS version
          FROM {touched}
         WHERE hour_at >= to_timestamp(%(start)s) AND hour_at < to_timestamp(%(end)s)
         GROUP BY stored_on, hour_at) t
  FULL JOIN (SELECT stored_on, hour_at, version
               FROM {hours_rolled}
              WHERE hour_at >= to_timestamp(%(start)s) AND hour_at < to_timestamp(%(end)s)) r
    ON r.stored_on = t.stored_on AND r.hour_at = t.hour_at;

-- name: day_states
-- Of each day that is rolled up: whether that is its latest state.
SELECT d.stored_on, extract(epoch FROM d.day_at)::bigint, coalesce(t.version, 0) = d.version
  FROM {days_rolled} d
  LEFT JOIN (SELECT stored_on, date_trunc('day', hour_at, 'UTC') AS day_at, sum(version) AS version
               FROM {touched}
              WHERE hour_at >= to_timestamp(%(start)s) AND hour_at < to_timestamp(%(end)s)
              GROUP BY 1, 2) t
    ON t.stored_on = d.stored_on AND t.day_at = d.day_at
 WHERE d.day_at >= to_timestamp(%(start)s) AND d.day_at < to_timestamp(%(end)s);

-- name: cells
-- What the pieces of days, hours and minutes have, by bucket of time and value. Each piece names its day of arrival, so that
-- Postgres looks into that partition only, and is added up by itself: no plan may read a whole table. Days and hours have the
-- texts in their index by hash, as some are longer than what an index takes.
SELECT p.start / %(step)s * %(step)s AS bucket, c.key, c.{counted}
  FROM unnest(%(day_stored)s::date[], %(day_starts)s::bigint[]) AS p (stored_on, start)
 CROSS JOIN LATERAL (
       SELECT {key} AS key, {added} FROM {days} c
        WHERE c.stored_on = p.stored_on AND c.day_at = to_timestamp(p.start) AND c.slice = %(slice)s {hashes} {filters}
        GROUP BY 1) c
 UNION ALL
SELECT p.start / %(step)s * %(step)s, c.key, c.{counted}
  FROM unnest(%(hour_stored)s::date[], %(hour_starts)s::bigint[]) AS p (stored_on, start)
 CROSS JOIN LATERAL (
       SELECT {key} AS key, {added} FROM {hours} c
        WHERE c.stored_on = p.stored_on AND c.hour_at = to_timestamp(p.start) AND c.slice = %(slice)s {hashes} {filters}
        GROUP BY 1) c
 UNION ALL
SELECT c.bucket, c.key, c.{counted}
  FROM unnest(%(minute_stored)s::date[], %(minute_starts)s::bigint[], %(minute_ends)s::bigint[]) AS p (stored_on, start, "end")
 CROSS JOIN LATERAL (
       SELECT floor(extract(epoch FROM c.minute_at) / %(step)s)::bigint * %(step)s AS bucket, {key} AS key, {added}
         FROM {minutes} c
        WHERE c.stored_on = p.stored_on
          AND c.minute_at >= to_timestamp(p.start) AND c.minute_at < to_timestamp(p."end") {filters}
        GROUP BY 1, 2) c;

-- name: series
-- The values that count most over the whole range, each by itself; the others together, under NULL.
WITH cells AS MATERIALIZED ({cells}),
     ranked AS (SELECT key FROM cells WHERE key IS NOT NULL
                 GROUP BY key ORDER BY sum(event_count) DESC, key COLLATE "C" LIMIT %(keys_max)s)
SELECT c.bucket, r.key, {totals}
  FROM cells c LEFT JOIN ranked r ON r.key = c.key
 GROUP BY c.bucket, r.key;

-- name: top
-- The total first, then the values that count most.
WITH cells AS MATERIALIZED ({cells})
SELECT grouping(c.key) = 1, c.key, {totals}
  FROM cells c
 GROUP BY GROUPING SETS ((), (c.key))
 ORDER BY 1 DESC, sum(c.event_count) DESC, c.key COLLATE "C"
 LIMIT %(rows)s + 1;

-- name: letter_groups
SELECT reason, stage, count(*), extract(epoch FROM min(recorded_at))::float8, extract(epoch FROM max(recorded_at))::float8
  FROM tally.dead_letters
 WHERE recorded_at >= to_timestamp(%(start)s) AND recorded_at < to_timestamp(%(end)s)
   AND (%(reason)s::text IS NULL OR reason = %(reason)s)
 GROUP BY reason, stage
 ORDER BY count(*) DESC, reason, stage
 LIMIT %(groups_max)s;

-- name: letter_samples
-- The newest; no key, value or header, which are somebody's.
SELECT source_topic, source_partition, source_offset, reason, stage, detail, extract(epoch FROM recorded_at)::float8
  FROM tally.dead_letters
 WHERE recorded_at >= to_timestamp(%(start)s) AND recorded_at < to_timestamp(%(end)s)
   AND (%(reason)s::text IS NULL OR reason = %(reason)s)
 ORDER BY recorded_at DESC, source_topic, source_partition, source_offset DESC
 LIMIT %(samples_max)s;
