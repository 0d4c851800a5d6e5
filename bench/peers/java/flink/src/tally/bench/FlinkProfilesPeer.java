package tally.bench;

import java.util.List;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/**
 * Minute aggregates and profiles by Flink's DataStream: read once, then keyed by cell to be counted, and by cookie to be kept.
 * Only what either needs goes over to it, packed once. State is in RocksDB, or with the argument "heap" in the JVM's memory.
 */
public final class FlinkProfilesPeer {
    public static void main(String[] arguments) throws Exception {
        boolean isOnHeap = List.of(arguments).contains("heap");
        StreamExecutionEnvironment environment = FlinkJob.environment(2, isOnHeap ? "hashmap" : "rocksdb");
        DataStream<Tuple2<Tag, Long>> tags = FlinkJob.tags(environment, new TagAndOffset());
        tags.map(tag -> Tuple2.of(tag.f0.cell(), tag.f0.product.price), Types.TUPLE(Types.STRING, Types.LONG))
                .keyBy(event -> event.f0, Types.STRING)
                .transform("count", Types.VOID, new Count())
                .sinkTo(new DiscardingSink<>());
        tags.map(FlinkProfilesPeer::row, Types.TUPLE(Types.STRING, KeepProfiles.PLACE, KeepProfiles.ROW))
                .keyBy(row -> row.f0, Types.STRING)
                .transform("keep profiles", Types.VOID, new KeepProfiles())
                .sinkTo(new DiscardingSink<>());
        FlinkJob.run(environment);
    }

    private static Tuple3<String, Tuple3<Boolean, Long, Long>, byte[]> row(Tuple2<Tag, Long> event) {
        Tag tag = event.f0;
        return Tuple3.of(tag.cookie, KeepProfiles.placeOf(tag, event.f1), ProfileRow.encode(tag));
    }

    /** Reads an event, and its offset, which tells what came later. */
    private static final class TagAndOffset implements KafkaRecordDeserializationSchema<Tuple2<Tag, Long>> {
        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Tuple2<Tag, Long>> out) {
            out.collect(Tuple2.of(Tag.parse(record.value()), record.offset()));
        }

        @Override
        public TypeInformation<Tuple2<Tag, Long>> getProducedType() {
            return Types.TUPLE(Types.GENERIC(Tag.class), Types.LONG);
        }
    }
}
