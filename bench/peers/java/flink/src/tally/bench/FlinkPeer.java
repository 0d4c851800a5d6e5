package tally.bench;

import org.apache.flink.api.common.serialization.AbstractDeserializationSchema;
import org.apache.flink.api.common.typeinfo.TypeHint;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;

/** Minute aggregates by Flink's DataStream. */
public final class FlinkPeer {
    public static void main(String[] arguments) throws Exception {
        StreamExecutionEnvironment environment = FlinkJob.environment(1);
        FlinkJob.tags(environment, KafkaRecordDeserializationSchema.valueOnly(new CellAndPrice()))
                .keyBy(event -> event.f0, Types.STRING)
                .transform("count", Types.VOID, new Count())
                .sinkTo(new DiscardingSink<>());
        FlinkJob.run(environment);
    }

    /** Reads an event and keeps what is counted of it: its cell and its price. */
    private static final class CellAndPrice extends AbstractDeserializationSchema<Tuple2<String, Long>> {
        CellAndPrice() {
            super(new TypeHint<Tuple2<String, Long>>() {});
        }

        @Override
        public Tuple2<String, Long> deserialize(byte[] json) {
            Tag tag = Tag.parseCounted(json);
            return Tuple2.of(tag.cell(), tag.product.price);
        }
    }
}
