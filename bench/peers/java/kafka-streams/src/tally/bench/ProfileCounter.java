package tally.bench;

import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;

/** Adds every event to its cell and to its user's profile. */
final class ProfileCounter implements Processor<byte[], Tag, Void, Void> {
    private final Report report;
    private ProcessorContext<Void, Void> context;
    private Cells cells;
    private Profiles profiles;

    ProfileCounter(Report report) {
        this.report = report;
    }

    @Override
    public void init(ProcessorContext<Void, Void> context) {
        this.context = context;
        cells = new Cells(context.getStateStore(Cells.STORE));
        profiles = new Profiles(context.getStateStore(Profiles.STORE));
    }

    @Override
    public void process(Record<byte[], Tag> record) {
        Tag tag = record.value();
        cells.add(tag);
        profiles.add(tag, context.recordMetadata().orElseThrow().offset());
        report.count(0);
    }
}
