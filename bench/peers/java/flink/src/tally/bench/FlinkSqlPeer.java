package tally.bench;

import java.util.HashMap;
import java.util.Map;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;
import org.apache.flink.types.Row;
import org.apache.flink.types.RowKind;

/** Minute aggregates by Flink's SQL, in mini-batches: cells are added up in memory before they go to the state. */
public final class FlinkSqlPeer {
    private static final String TAGS = """
            CREATE TABLE tags (
                `time` STRING, action STRING, origin STRING,
                product_info ROW<brand_id STRING, category_id STRING, price BIGINT>
            ) WITH (
                'connector' = 'kafka', 'topic' = '%s', 'properties.bootstrap.servers' = '%s', 'properties.group.id' = 'flink',
                'scan.startup.mode' = 'earliest-offset', 'format' = 'json')
            """;
    private static final String CELLS = """
            SELECT minute_at || '|' || action || '|' || origin || '|' || brand_id || '|' || category_id AS cell,
                count(*) AS events, sum(price) AS price_sum
            FROM (SELECT SUBSTRING(`time`, 1, 16) AS minute_at, action, origin, product_info.brand_id AS brand_id,
                product_info.category_id AS category_id, product_info.price AS price FROM tags)
            GROUP BY minute_at, action, origin, brand_id, category_id
            """;

    public static void main(String[] arguments) throws Exception {
        StreamExecutionEnvironment environment = FlinkJob.environment(1);
        StreamTableEnvironment tables = StreamTableEnvironment.create(environment);
        Map.of("enabled", "true", "allow-latency", "1 s", "size", "10000")
                .forEach((name, value) -> tables.getConfig().set("table.exec.mini-batch." + name, value));
        tables.executeSql(TAGS.formatted(System.getenv("PEER_TOPIC"), System.getenv("PEER_SERVERS")));
        tables.toChangelogStream(tables.sqlQuery(CELLS)).sinkTo(new Latest());
        FlinkJob.run(environment);
    }

    /** Keeps the newest totals of each cell, as a table outside would, and reports them at the end. */
    private static final class Latest implements Sink<Row>, SinkWriter<Row> {
        private transient Map<String, long[]> cells;

        @Override
        public SinkWriter<Row> createWriter(WriterInitContext context) {
            cells = new HashMap<>();
            return this;
        }

        @Override
        public void write(Row row, Context context) {
            if (row.getKind() != RowKind.UPDATE_BEFORE) {
                long[] latest = {row.<Long>getFieldAs(1), row.<Long>getFieldAs(2)};
                long[] before = cells.put(row.getFieldAs(0), latest);
                FlinkJob.report.count(FlinkJob.COUNTING, latest[0] - (before == null ? 0 : before[0]));
            }
        }

        @Override
        public void flush(boolean isEnd) {
            if (isEnd) {
                cells.forEach((cell, total) -> FlinkJob.report.add(cell, total[0], total[1]));
            }
        }

        @Override
        public void close() {}
    }
}
