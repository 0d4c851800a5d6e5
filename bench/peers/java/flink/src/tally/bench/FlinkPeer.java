package tally.bench;

import java.nio.file.Path;
import java.util.Map;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.serialization.AbstractDeserializationSchema;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeHint;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.core.execution.SavepointFormatType;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.streaming.api.operators.KeyedProcessOperator;
import org.apache.flink.util.Collector;

/**
 * Minute aggregates by Flink, its cluster within this process: keyed by cell, state in RocksDB, checkpoints (incremental,
 * exactly once) every ten seconds, objects reused.
 */
public final class FlinkPeer {
    private static final ValueStateDescriptor<Tuple2<Long, Long>> CELL =
            new ValueStateDescriptor<>("cell", Types.TUPLE(Types.LONG, Types.LONG));
    private static final Path HOME = Path.of(System.getenv("PEER_HOME"));
    /** Static, since an operator is sent to its task as bytes. */
    private static final Report REPORT = new Report(HOME);

    public static void main(String[] arguments) throws Exception {
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment(settings());
        environment.setParallelism(1);
        environment
                .fromSource(source(), WatermarkStrategy.noWatermarks(), "tags")
                .keyBy(event -> event.f0, Types.STRING)
                .transform("count", Types.VOID, new Count())
                .sinkTo(new DiscardingSink<>());
        JobClient job = environment.executeAsync("minute aggregates");
        Report.awaitEnd();
        job.stopWithSavepoint(true, HOME.resolve("savepoints").toUri().toString(), SavepointFormatType.NATIVE).get();
        REPORT.writeTotals();
        System.exit(0);
    }

    private static Configuration settings() {
        return Configuration.fromMap(Map.of(
                "state.backend.type", "rocksdb",
                "taskmanager.memory.managed.size", "512m",
                "execution.checkpointing.interval", "10s",
                "execution.checkpointing.incremental", "true",
                "execution.checkpointing.dir", HOME.resolve("checkpoints").toUri().toString(),
                "pipeline.object-reuse", "true"));
    }

    private static KafkaSource<Tuple2<String, Long>> source() {
        return KafkaSource.<Tuple2<String, Long>>builder()
                .setBootstrapServers(System.getenv("PEER_SERVERS"))
                .setTopics(System.getenv("PEER_TOPIC"))
                .setGroupId("flink")
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setValueOnlyDeserializer(new CellAndPrice())
                .build();
    }

    /** Reads an event and keeps what is counted of it: its cell and its price. */
    private static final class CellAndPrice extends AbstractDeserializationSchema<Tuple2<String, Long>> {
        CellAndPrice() {
            super(new TypeHint<Tuple2<String, Long>>() {});
        }

        @Override
        public Tuple2<String, Long> deserialize(byte[] json) {
            Tag tag = Tag.parse(json);
            return Tuple2.of(tag.cell(), tag.product.price);
        }
    }

    /** Adds every event to its cell. */
    private static final class Add extends KeyedProcessFunction<String, Tuple2<String, Long>, Void> {
        private transient ValueState<Tuple2<Long, Long>> cell;

        @Override
        public void open(OpenContext context) {
            cell = getRuntimeContext().getState(CELL);
        }

        @Override
        public void processElement(Tuple2<String, Long> event, Context context, Collector<Void> out) throws Exception {
            Tuple2<Long, Long> old = cell.value();
            cell.update(old == null ? Tuple2.of(1L, event.f1) : Tuple2.of(old.f0 + 1, old.f1 + event.f1));
            REPORT.count();
        }
    }

    /** Runs Add, and when the job is drained reports what its state holds. */
    private static final class Count extends KeyedProcessOperator<String, Tuple2<String, Long>, Void> {
        Count() {
            super(new Add());
        }

        @Override
        public void finish() throws Exception {
            super.finish();
            getKeyedStateBackend().applyToAllKeys(
                    VoidNamespace.INSTANCE,
                    VoidNamespaceSerializer.INSTANCE,
                    CELL,
                    (key, state) -> REPORT.add((String) key, state.value().f0, state.value().f1));
        }
    }
}
