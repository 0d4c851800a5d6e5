package tally.bench;

import java.nio.ByteBuffer;
import org.apache.kafka.streams.state.KeyValueStore;

/** Counts and sums by minute and dimensions, in a store of one partition. */
final class Cells {
    static final String STORE = "cells";
    private static final int VALUE_BYTES = 2 * Long.BYTES;

    private final KeyValueStore<String, byte[]> store;

    Cells(KeyValueStore<String, byte[]> store) {
        this.store = store;
    }

    void add(Tag tag) {
        String cell = tag.cell();
        byte[] before = store.get(cell);
        ByteBuffer old = ByteBuffer.wrap(before == null ? new byte[VALUE_BYTES] : before);
        long count = old.getLong() + 1;
        long sum = old.getLong() + tag.product.price;
        store.put(cell, ByteBuffer.allocate(VALUE_BYTES).putLong(count).putLong(sum).array());
    }

    static void report(String cell, byte[] value, Report report) {
        ByteBuffer total = ByteBuffer.wrap(value);
        report.add(cell, total.getLong(), total.getLong());
    }
}
