package tally.bench;

import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.operators.KeyedProcessOperator;
import org.apache.flink.util.Collector;

/** Adds every event to its cell, and when the job is drained reports what its state holds. */
final class Count extends KeyedProcessOperator<String, Tuple2<String, Long>, Void> {
    private static final ValueStateDescriptor<Tuple2<Long, Long>> CELL =
            new ValueStateDescriptor<>("cell", Types.TUPLE(Types.LONG, Types.LONG));

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
                (key, state) -> FlinkJob.report.add((String) key, state.value().f0, state.value().f1));
    }

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
            FlinkJob.report.count(FlinkJob.COUNTING);
        }
    }
}
