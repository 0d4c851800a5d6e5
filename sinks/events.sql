-- Statements of the submissions: their rows, the transaction log, forward positions, reports. `{…}` are names of tables and
-- columns, `%(…)s` values, `%(…)b` those that are sent in binary: of a long array that costs a fifth. Every write is idempotent,
-- and its offset commits in the same transaction.

-- name: delete_datapoints
-- The span's rows of an earlier delivery, and what of them the reports have counted. The first row of the answer has no value:
-- how many went.
WITH gone AS (
    DELETE FROM {events}
     WHERE source_partition = %(partition)s AND source_offset BETWEEN %(first)s AND %(last)s
    RETURNING source_partition, datapoint, (occurred_at AT TIME ZONE 'UTC')::date AS day, value
)
SELECT NULL, NULL, NULL, NULL, count(*) FROM gone
UNION ALL
SELECT datapoint, day, source_partition, value, count(*) FROM gone
 WHERE datapoint = ANY (%(reported)s::text[]) AND value <> ''
 GROUP BY datapoint, day, source_partition, value;

-- name: add_value_counts
-- Of one partition only its writer counts: it holds the lock on its offset.
INSERT INTO tally.value_counts AS c (datapoint, day, source_partition, value, value_digest, value_count, updated_on)
SELECT datapoint, day, partition, value, digest, value_count, %(today)s
  FROM unnest(%(datapoints)b::text[], %(days)b::date[], %(partitions)b::integer[], %(values)b::text[], %(digests)b::uuid[],
              %(counts)b::bigint[]) AS w (datapoint, day, partition, value, digest, value_count)
    ON CONFLICT (datapoint, day, source_partition, value_digest) DO UPDATE
       SET value_count = c.value_count + excluded.value_count, updated_on = excluded.updated_on;

-- name: forget_value_counts
DELETE FROM tally.value_counts WHERE updated_on < %(kept_from)s;

-- name: log_pending
-- Only attempts that were not counted yet count. What became of the submission is not for this to say.
INSERT INTO tally.txn_log AS t (identity, source_partition, txn_id, user_id, kind, product, state, attempts, datapoints,
                                source_offset, last_offset, created_at, updated_at)
SELECT w.identity, w.partition, min(w.txn_id), min(w.user_id), min(w.kind), min(w.product), 'PENDING', count(*),
       (array_agg(w.datapoints ORDER BY w."offset"))[1], min(w."offset"), max(w."offset"),
       to_timestamp(min(w.at_ms)::float8 / 1000), now()
  FROM unnest(%(identities)b::uuid[], %(partitions)b::integer[], %(ids)b::text[], %(users)b::text[], %(kinds)b::text[],
              %(products)b::text[], %(datapoints)b::integer[], %(offsets)b::bigint[], %(times_ms)b::bigint[])
       AS w (identity, partition, txn_id, user_id, kind, product, datapoints, "offset", at_ms)
  LEFT JOIN tally.txn_log k ON k.identity = w.identity AND k.source_partition = w.partition
 WHERE w."offset" > coalesce(k.last_offset, -1)
 GROUP BY w.identity, w.partition
 ORDER BY w.identity, w.partition
    ON CONFLICT (identity, source_partition) DO UPDATE
       SET attempts = t.attempts + excluded.attempts, last_offset = excluded.last_offset, updated_at = excluded.updated_at,
           created_at = least(t.created_at, excluded.created_at)
     WHERE t.last_offset < excluded.last_offset;

-- name: log_done
-- The rows are there, in this transaction; attempts are counted by who reads the source.
INSERT INTO tally.txn_log AS t (identity, source_partition, txn_id, user_id, kind, product, state, attempts, datapoints,
                                source_offset, last_offset, created_at, updated_at)
SELECT identity, partition, txn_id, user_id, kind, product, 'DONE', 0, datapoints, "offset", -1, now(), now()
  FROM unnest(%(identities)b::uuid[], %(partitions)b::integer[], %(ids)b::text[], %(users)b::text[], %(kinds)b::text[],
              %(products)b::text[], %(datapoints)b::integer[], %(offsets)b::bigint[])
       AS w (identity, partition, txn_id, user_id, kind, product, datapoints, "offset")
 ORDER BY identity, partition
    ON CONFLICT (identity, source_partition) DO UPDATE
       SET state = 'DONE', error = NULL, datapoints = excluded.datapoints, source_offset = excluded.source_offset,
           updated_at = excluded.updated_at
     WHERE t.state <> 'DONE' OR t.source_offset <> excluded.source_offset;

-- name: log_failed
-- A later attempt that fails says nothing of an earlier one, and nothing unwrites rows.
INSERT INTO tally.txn_log AS t (identity, source_partition, txn_id, user_id, kind, product, state, error, attempts, datapoints,
                                source_offset, last_offset, created_at, updated_at)
SELECT identity, partition, txn_id, user_id, kind, product, 'FAILED', error, 0, datapoints, "offset", -1,
       to_timestamp(at_ms::float8 / 1000), now()
  FROM unnest(%(identities)b::uuid[], %(partitions)b::integer[], %(ids)b::text[], %(users)b::text[], %(kinds)b::text[],
              %(products)b::text[], %(datapoints)b::integer[], %(offsets)b::bigint[], %(times_ms)b::bigint[], %(errors)b::text[])
       AS w (identity, partition, txn_id, user_id, kind, product, datapoints, "offset", at_ms, error)
 ORDER BY identity, partition
    ON CONFLICT (identity, source_partition) DO UPDATE
       SET state = 'FAILED', error = excluded.error, updated_at = excluded.updated_at
     WHERE t.state <> 'DONE' AND t.source_offset >= excluded.source_offset AND t.error IS DISTINCT FROM excluded.error;

-- name: log_unwritten
-- The rows of what comes after it are written, so its own will not come any more; a dead letter on its way has some time left.
-- Some at a time. The state is asked twice: a row that becomes DONE meanwhile is looked at again, where it was found is not.
UPDATE tally.txn_log
   SET state = 'FAILED', error = %(error)s, updated_at = now()
 WHERE state = 'PENDING'
   AND ctid = ANY (ARRAY(SELECT t.ctid
                           FROM tally.forward_positions p
                           JOIN tally.txn_log t ON t.source_partition = p.partition AND t.source_offset <= p.rows_through
                          WHERE p.topic = %(topic)s AND t.state = 'PENDING'
                            AND t.updated_at < now() - make_interval(secs => %(grace_s)s)
                          LIMIT %(rows_max)s));

-- name: queued_rows
SELECT coalesce(sum(datapoints), 0)::bigint FROM tally.txn_log WHERE state = 'PENDING';

-- name: forget_submissions
-- Some at a time; what is pending is never forgotten. The age is asked twice, as the state above.
DELETE FROM tally.txn_log
 WHERE updated_at < to_timestamp(%(kept_from_ms)s::float8 / 1000)
   AND ctid = ANY (ARRAY(SELECT ctid FROM tally.txn_log
                          WHERE state <> 'PENDING' AND updated_at < to_timestamp(%(kept_from_ms)s::float8 / 1000)
                          LIMIT %(rows_max)s));

-- name: move_rows_through
INSERT INTO tally.forward_positions AS p (topic, partition, rows_through)
SELECT %(topic)s, partition, through
  FROM unnest(%(partitions)s::integer[], %(throughs)s::bigint[]) AS w (partition, through)
 ORDER BY partition
    ON CONFLICT (topic, partition) DO UPDATE SET rows_through = excluded.rows_through
     WHERE p.rows_through < excluded.rows_through;

-- name: read_forward
-- `now` is asked for here, so that what is asked for later than this is later for Postgres too.
SELECT topic, partition, window_at, forward_to, asked_at > coalesce(opened_at, '-infinity') AS asked, clock_timestamp()
  FROM tally.forward_positions
 WHERE topic = ANY (%(topics)s::text[]);

-- name: open_forward
INSERT INTO tally.forward_positions AS p (topic, partition, window_at, forward_to, opened_at)
SELECT topic, partition, %(window_at)s, forward_to, %(seen_at)s
  FROM unnest(%(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[]) AS w (topic, partition, forward_to)
 ORDER BY topic, partition
    ON CONFLICT (topic, partition) DO UPDATE
       SET window_at = excluded.window_at, opened_at = excluded.opened_at,
           forward_to = greatest(p.forward_to, excluded.forward_to);

-- name: ask_forward
-- Everybody who holds something back looks here every second.
UPDATE tally.forward_positions SET asked_at = clock_timestamp() WHERE forward_to IS NOT NULL RETURNING asked_at;

-- name: waiting_forward
-- What was asked for and is not written yet.
SELECT count(*)
  FROM tally.forward_positions p
  LEFT JOIN tally.sink_offsets s USING (topic, partition)
 WHERE p.forward_to IS NOT NULL
   AND (coalesce(p.opened_at, '-infinity') < p.asked_at OR coalesce(s.next_offset, 0) < p.forward_to);
