package tally.bench;

import java.nio.file.Path;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/**
 * Minute aggregates by Kafka Streams, and profiles with the argument "profiles": stores in RocksDB with changelogs, the cache
 * on, or off with the argument "uncached".
 *
 * <p>By the Processor API: each partition counts into its own part of the store, as Tally's blocks do. groupBy of the DSL would
 * write every event to Kafka once more.
 */
public final class KafkaStreamsPeer {
    public static void main(String[] arguments) throws Exception {
        List<String> given = List.of(arguments);
        boolean isCached = !given.contains("uncached");
        boolean hasProfiles = given.contains("profiles");
        Path home = Path.of(System.getenv("PEER_HOME"));
        Report report = new Report(home, 1);
        Topology topology = hasProfiles ? withProfiles(report, isCached) : aggregates(report, isCached);
        try (KafkaStreams streams = new KafkaStreams(topology, settings(home, isCached))) {
            streams.start();
            Report.awaitEnd();
            addCells(streams, report);
            if (hasProfiles) {
                addProfiles(streams, report);
            }
        }
        report.writeState();
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

    private static Topology aggregates(Report report, boolean isCached) {
        return reading((topic, json) -> Tag.parseCounted(json))
                .addProcessor("count", () -> new Counter(report), "tags")
                .addStateStore(cells(isCached), "count");
    }

    private static Topology withProfiles(Report report, boolean isCached) {
        return reading((topic, json) -> Tag.parse(json))
                .addProcessor("count", () -> new ProfileCounter(report), "tags")
                .addStateStore(cells(isCached), "count")
                .addStateStore(store(Profiles.STORE, Serdes.ByteArray()), "count");
    }

    private static Topology reading(Deserializer<Tag> tags) {
        return new Topology().addSource("tags", Serdes.ByteArray().deserializer(), tags, System.getenv("PEER_TOPIC"));
    }

    private static StoreBuilder<KeyValueStore<String, byte[]>> cells(boolean isCached) {
        StoreBuilder<KeyValueStore<String, byte[]>> store = store(Cells.STORE, Serdes.String());
        return isCached ? store.withCachingEnabled() : store;
    }

    private static <K> StoreBuilder<KeyValueStore<K, byte[]>> store(String name, Serde<K> keys) {
        return Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(name), keys, Serdes.ByteArray());
    }

    private static void addCells(KafkaStreams streams, Report report) {
        try (KeyValueIterator<String, byte[]> cells = all(streams, Cells.STORE)) {
            cells.forEachRemaining(cell -> Cells.report(cell.key, cell.value, report));
        }
    }

    private static void addProfiles(KafkaStreams streams, Report report) {
        try (KeyValueIterator<byte[], byte[]> rows = all(streams, Profiles.STORE)) {
            rows.forEachRemaining(row -> Profiles.report(row.key, row.value, report));
        }
    }

    private static <K> KeyValueIterator<K, byte[]> all(KafkaStreams streams, String store) {
        return streams.store(StoreQueryParameters.fromNameAndType(store, QueryableStoreTypes.<K, byte[]>keyValueStore())).all();
    }
}
