-- Every statement by which one event is looked for. `{…}` are names of tables and columns, which come from the declaration of
-- the stream; `%(…)s` are values. Nothing writes.

-- name: set_session
SELECT set_config('statement_timeout', %(statement_timeout_ms)s::text, false), set_config('TimeZone', 'UTC', false);

-- name: read_positions
-- What is applied.
SELECT topic, partition, next_offset FROM tally.sink_offsets;

-- name: find_event
-- The event minute of the row of one source position, whatever day it lies in.
SELECT floor(extract(epoch FROM occurred_at) / 60)::bigint
  FROM {events}
 WHERE source_partition = %(partition)s AND source_offset = %(offset)s
 LIMIT 1;

-- name: find_events_of
-- Where the events of one user and millisecond came from; an event may have several rows, and a time to the microsecond.
SELECT DISTINCT source_partition, source_offset
  FROM {events}
 WHERE {user} = %(user)s
   AND occurred_at >= to_timestamp(0) + %(at_ms)s * interval '1 millisecond'
   AND occurred_at < to_timestamp(0) + (%(at_ms)s + 1) * interval '1 millisecond'
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
