package tally.bench;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.operators.KeyedProcessOperator;
import org.apache.flink.util.Collector;

/** Keeps events in their users' profiles: an entry each of a map, so that nothing is read to add one. Reports when drained. */
final class KeepProfiles extends KeyedProcessOperator<String, Tuple3<String, Tuple3<Boolean, Long, Long>, byte[]>, Void> {
    /** Where an event stands in a profile: whether it is a BUY, and time and offset, both counted down: newest first. */
    static final TypeInformation<Tuple3<Boolean, Long, Long>> PLACE = Types.TUPLE(Types.BOOLEAN, Types.LONG, Types.LONG);

    static final TypeInformation<byte[]> ROW = TypeInformation.of(byte[].class);
    private static final MapStateDescriptor<Tuple3<Boolean, Long, Long>, byte[]> ROWS =
            new MapStateDescriptor<>("rows", PLACE, ROW);
    private static final Comparator<Tuple3<Boolean, Long, Long>> NEWEST_FIRST =
            Comparator.<Tuple3<Boolean, Long, Long>>comparingLong(place -> place.f1).thenComparingLong(place -> place.f2);

    KeepProfiles() {
        super(new Keep());
    }

    static Tuple3<Boolean, Long, Long> placeOf(Tag tag, long offset) {
        return Tuple3.of(tag.isBuy(), Long.MAX_VALUE - tag.atMs(), Long.MAX_VALUE - offset);
    }

    @Override
    public void finish() throws Exception {
        super.finish();
        getKeyedStateBackend().applyToAllKeys(
                VoidNamespace.INSTANCE, VoidNamespaceSerializer.INSTANCE, ROWS, (key, rows) -> report((String) key, rows));
    }

    private static void report(String cookie, MapState<Tuple3<Boolean, Long, Long>, byte[]> rows) throws Exception {
        for (boolean isBuy : new boolean[] {false, true}) {
            for (Tuple3<Boolean, Long, Long> place : places(rows, isBuy)) {
                long atMs = Long.MAX_VALUE - place.f1;
                byte[] row = rows.get(place);
                FlinkJob.report.addRow(cookie, isBuy, () -> ProfileRow.decode(cookie, isBuy, atMs, row));
            }
        }
    }

    /** Return where the events of an action stand, newest first. */
    private static List<Tuple3<Boolean, Long, Long>> places(MapState<Tuple3<Boolean, Long, Long>, byte[]> rows, boolean isBuy)
            throws Exception {
        List<Tuple3<Boolean, Long, Long>> places = new ArrayList<>();
        for (Tuple3<Boolean, Long, Long> place : rows.keys()) {
            if (place.f0 == isBuy) {
                places.add(place);
            }
        }
        places.sort(NEWEST_FIRST);
        return places;
    }

    private static final class Keep
            extends KeyedProcessFunction<String, Tuple3<String, Tuple3<Boolean, Long, Long>, byte[]>, Void> {
        private transient MapState<Tuple3<Boolean, Long, Long>, byte[]> rows;
        private transient long written;

        @Override
        public void open(OpenContext context) {
            rows = getRuntimeContext().getMapState(ROWS);
        }

        @Override
        public void processElement(
                Tuple3<String, Tuple3<Boolean, Long, Long>, byte[]> event, Context context, Collector<Void> out)
                throws Exception {
            rows.put(event.f1, event.f2);
            if (++written % ProfileRow.TRIM_EVERY == 0) {
                trim(event.f1.f0);
            }
            FlinkJob.report.count(FlinkJob.KEEPING_PROFILES);
        }

        private void trim(boolean isBuy) throws Exception {
            List<Tuple3<Boolean, Long, Long>> places = places(rows, isBuy);
            for (int place = ProfileRow.NEWEST_MAX; place < places.size(); place++) {
                rows.remove(places.get(place));
            }
        }
    }
}
