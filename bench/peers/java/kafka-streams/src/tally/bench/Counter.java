package tally.bench;

import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;

/** Adds every event to its cell. */
final class Counter implements Processor<byte[], Tag, Void, Void> {
    private final Report report;
    private Cells cells;

    Counter(Report report) {
        this.report = report;
    }

    @Override
    public void init(ProcessorContext<Void, Void> context) {
        cells = new Cells(context.getStateStore(Cells.STORE));
    }

    @Override
    public void process(Record<byte[], Tag> record) {
        cells.add(record.value());
        report.count(0);
    }
}
