package tally.bench;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * The newest events of each user and action, in a store of one partition: a row an event, so that nothing is read to add one.
 * Keys are cookie, 0, action, time and offset, both counted down: a profile is what a prefix finds, newest first.
 */
final class Profiles {
    static final String STORE = "profiles";
    private static final int ORDER_BYTES = 2 * Long.BYTES;
    private static final ByteArraySerializer AS_IT_IS = new ByteArraySerializer();

    private final KeyValueStore<byte[], byte[]> store;
    private long written;

    Profiles(KeyValueStore<byte[], byte[]> store) {
        this.store = store;
    }

    void add(Tag tag, long offset) {
        byte[] profile = profileOf(tag);
        byte[] key = ByteBuffer.allocate(profile.length + ORDER_BYTES)
                .put(profile)
                .putLong(Long.MAX_VALUE - tag.atMs())
                .putLong(Long.MAX_VALUE - offset)
                .array();
        store.put(key, ProfileRow.encode(tag));
        if (++written % ProfileRow.TRIM_EVERY == 0) {
            trim(profile);
        }
    }

    private static byte[] profileOf(Tag tag) {
        byte[] cookie = tag.cookie.getBytes(StandardCharsets.UTF_8);
        return ByteBuffer.allocate(cookie.length + 2).put(cookie).put((byte) 0).put((byte) (tag.isBuy() ? 1 : 0)).array();
    }

    private void trim(byte[] profile) {
        List<byte[]> tooMany = new ArrayList<>();
        try (KeyValueIterator<byte[], byte[]> rows = store.prefixScan(profile, AS_IT_IS)) {
            for (int row = 0; rows.hasNext(); row++) {
                byte[] key = rows.next().key;
                if (row >= ProfileRow.NEWEST_MAX) {
                    tooMany.add(key);
                }
            }
        }
        tooMany.forEach(store::delete);
    }

    static void report(byte[] key, byte[] row, Report report) {
        int profileBytes = key.length - ORDER_BYTES;
        String cookie = new String(key, 0, profileBytes - 2, StandardCharsets.UTF_8);
        boolean isBuy = key[profileBytes - 1] == 1;
        long atMs = Long.MAX_VALUE - ByteBuffer.wrap(key, profileBytes, Long.BYTES).getLong();
        report.addRow(cookie, isBuy, () -> ProfileRow.decode(cookie, isBuy, atMs, row));
    }
}
