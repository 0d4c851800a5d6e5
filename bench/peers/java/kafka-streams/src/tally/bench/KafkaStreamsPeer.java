package tally.bench;

import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.Properties;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/**
 * Minute aggregates by Kafka Streams: a store in RocksDB with a changelog, its cache on, or off with the argument "uncached".
 *
 * <p>By the Processor API: each partition counts into its own part of the store, as Tally's blocks do. groupBy of the DSL would
 * write every event to Kafka once more.
 */
public final class KafkaStreamsPeer {
    private static final String STORE = "cells";
    private static final int VALUE_BYTES = 2 * Long.BYTES;

    public static void main(String[] arguments) throws Exception {
        boolean isCached = arguments.length == 0 || !arguments[0].equals("uncached");
        Path home = Path.of(System.getenv("PEER_HOME"));
        Report report = new Report(home);
        try (KafkaStreams streams = new KafkaStreams(topology(report, isCached), settings(home, isCached))) {
            streams.start();
            Report.awaitEnd();
            addAll(streams, report);
        }
        report.writeTotals();
    }

    private static Properties settings(Path home, boolean isCached) {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "kafka-streams");
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, System.getenv("PEER_SERVERS"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, home.resolve("state").toString());
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        if (!isCached) {
            settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 0);
        }
        return settings;
    }

    private static Topology topology(Report report, boolean isCached) {
        StoreBuilder<KeyValueStore<String, byte[]>> store = Stores.keyValueStoreBuilder(
                Stores.persistentKeyValueStore(STORE), Serdes.String(), Serdes.ByteArray());
        Deserializer<byte[]> bytes = Serdes.ByteArray().deserializer();
        Deserializer<Tag> tags = (topic, value) -> Tag.parse(value);
        return new Topology()
                .addSource("tags", bytes, tags, System.getenv("PEER_TOPIC"))
                .addProcessor("count", () -> new Counter(report), "tags")
                .addStateStore(isCached ? store.withCachingEnabled() : store, "count");
    }

    private static void addAll(KafkaStreams streams, Report report) {
        var store = streams.store(
                StoreQueryParameters.fromNameAndType(STORE, QueryableStoreTypes.<String, byte[]>keyValueStore()));
        try (KeyValueIterator<String, byte[]> cells = store.all()) {
            cells.forEachRemaining(cell -> {
                ByteBuffer value = ByteBuffer.wrap(cell.value);
                report.add(cell.key, value.getLong(), value.getLong());
            });
        }
    }

    /** Adds every event to its cell. */
    private static final class Counter implements Processor<byte[], Tag, Void, Void> {
        private final Report report;
        private KeyValueStore<String, byte[]> cells;

        Counter(Report report) {
            this.report = report;
        }

        @Override
        public void init(ProcessorContext<Void, Void> context) {
            cells = context.getStateStore(STORE);
        }

        @Override
        public void process(Record<byte[], Tag> record) {
            Tag tag = record.value();
            String cell = tag.cell();
            byte[] before = cells.get(cell);
            ByteBuffer old = ByteBuffer.wrap(before == null ? new byte[VALUE_BYTES] : before);
            long count = old.getLong() + 1;
            long sum = old.getLong() + tag.product.price;
            cells.put(cell, ByteBuffer.allocate(VALUE_BYTES).putLong(count).putLong(sum).array());
            report.count();
        }
    }
}
