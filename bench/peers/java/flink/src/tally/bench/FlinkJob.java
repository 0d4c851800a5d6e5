package tally.bench;

import java.nio.file.Path;
import java.util.Map;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.core.execution.SavepointFormatType;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

/**
 * How every job of Flink runs here: its cluster within this process, state in RocksDB unless said otherwise, checkpoints
 * (incremental, exactly once) every ten seconds, objects reused.
 */
final class FlinkJob {
    static final int COUNTING = 0;
    static final int KEEPING_PROFILES = 1;
    private static final Path HOME = Path.of(System.getenv("PEER_HOME"));
    /** Static, since an operator is sent to its task as bytes. */
    static Report report;

    private FlinkJob() {}

    static StreamExecutionEnvironment environment(int parts) {
        return environment(parts, "rocksdb");
    }

    static StreamExecutionEnvironment environment(int parts, String stateBackend) {
        report = new Report(HOME, parts);
        Configuration settings = Configuration.fromMap(Map.of(
                "state.backend.type", stateBackend,
                "taskmanager.memory.managed.size", "512m",
                "execution.checkpointing.interval", "10s",
                "execution.checkpointing.incremental", "true",
                "execution.checkpointing.dir", HOME.resolve("checkpoints").toUri().toString(),
                "pipeline.object-reuse", "true"));
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment(settings);
        environment.setParallelism(1);
        return environment;
    }

    static <T> DataStream<T> tags(StreamExecutionEnvironment environment, KafkaRecordDeserializationSchema<T> tags) {
        KafkaSource<T> source = KafkaSource.<T>builder()
                .setBootstrapServers(System.getenv("PEER_SERVERS"))
                .setTopics(System.getenv("PEER_TOPIC"))
                .setGroupId("flink")
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setDeserializer(tags)
                .build();
        return environment.fromSource(source, WatermarkStrategy.noWatermarks(), "tags");
    }

    /** Run until the benchmark has seen enough; then drain the job, whose operators report what their state holds. */
    static void run(StreamExecutionEnvironment environment) throws Exception {
        JobClient job = environment.executeAsync("tags");
        Report.awaitEnd();
        job.stopWithSavepoint(true, HOME.resolve("savepoints").toUri().toString(), SavepointFormatType.NATIVE).get();
        report.writeState();
        System.exit(0);
    }
}
