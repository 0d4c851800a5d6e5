package tally.bench;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Map;
import java.util.TreeMap;

/**
 * What a peer tells the benchmark, in files: how many events it has counted, four times a second, and at its end the totals of
 * what its state holds, by minute and action. It ends when its standard input does.
 */
public final class Report {
    private static final long INTERVAL_MS = 250;

    private final Path home;
    private final Map<String, long[]> totals = new TreeMap<>();
    private volatile long counted;

    public Report(Path home) {
        this.home = home;
        Thread writer = new Thread(this::writeCounted, "report");
        writer.setDaemon(true);
        writer.start();
    }

    /** Count one more event; one thread only calls this. */
    public void count() {
        counted++;
    }

    /** Return when the benchmark has seen enough, or has died. */
    public static void awaitEnd() throws IOException {
        while (System.in.read() != -1) {}
    }

    /** Add one cell of the state to the totals. */
    public synchronized void add(String cell, long count, long sum) {
        String minuteAndAction = cell.substring(0, cell.indexOf('|', cell.indexOf('|') + 1));
        long[] total = totals.computeIfAbsent(minuteAndAction, key -> new long[2]);
        total[0] += count;
        total[1] += sum;
    }

    /** Write the totals down. */
    public synchronized void writeTotals() {
        StringBuilder lines = new StringBuilder();
        totals.forEach((key, total) -> lines.append(key + '\t' + total[0] + '\t' + total[1] + '\n'));
        write("totals", lines.toString());
    }

    private void writeCounted() {
        try {
            while (true) {
                write("counted", Long.toString(counted));
                Thread.sleep(INTERVAL_MS);
            }
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
    }

    private void write(String name, String text) {
        try {
            Path unfinished = Files.writeString(home.resolve(name + ".new"), text);
            Files.move(unfinished, home.resolve(name), StandardCopyOption.ATOMIC_MOVE);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }
}
