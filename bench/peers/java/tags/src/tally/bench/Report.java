package tally.bench;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicLongArray;
import java.util.function.Supplier;
import java.util.stream.IntStream;

/**
 * What a peer tells the benchmark, in files: how many events it has counted, four times a second, and at its end the totals of
 * what its state holds, by minute and action, and of profiles the number of rows and some whole ones. It ends when its standard
 * input does.
 */
public final class Report {
    private static final long INTERVAL_MS = 250;
    /** Two cache lines: threads that count do not disturb each other. */
    private static final int APART = 16;

    private final Path home;
    private final AtomicLongArray counted;
    private final Map<String, long[]> totals = new TreeMap<>();
    private final Set<String> asked = Set.of(System.getenv().getOrDefault("PEER_COOKIES", "").split(","));
    private final StringBuilder profiles = new StringBuilder();
    private String profile = "";
    private int rowsOfProfile;
    private long rows;

    /** Tell what *parts* threads do, each of which sees every event: an event is counted when all of them have. */
    public Report(Path home, int parts) {
        this.home = home;
        counted = new AtomicLongArray(parts * APART);
        Thread writer = new Thread(this::writeCounted, "report");
        writer.setDaemon(true);
        writer.start();
    }

    /** Count one more event of a part, from 0; one thread only calls this for a part. */
    public void count(int part) {
        count(part, 1);
    }

    /** Count some more. */
    public void count(int part, long events) {
        int index = part * APART;
        counted.lazySet(index, counted.getPlain(index) + events);
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

    /** Add one row of a profile; rows of a user and action come together, newest first, and those too many are left out. */
    public synchronized void addRow(String cookie, boolean isBuy, Supplier<Tag> event) {
        String nextProfile = cookie + isBuy;
        rowsOfProfile = nextProfile.equals(profile) ? rowsOfProfile + 1 : 1;
        profile = nextProfile;
        if (rowsOfProfile > ProfileRow.NEWEST_MAX) {
            return;
        }
        rows++;
        if (asked.contains(cookie)) {
            profiles.append(event.get().json()).append('\n');
        }
    }

    /** Write down what was added: totals, and profiles with the number of all rows before them. */
    public synchronized void writeState() {
        StringBuilder lines = new StringBuilder();
        totals.forEach((key, total) -> lines.append(key + '\t' + total[0] + '\t' + total[1] + '\n'));
        write("profiles", rows + "\n" + profiles);
        write("totals", lines.toString());
    }

    private void writeCounted() {
        try {
            while (true) {
                write("counted", Long.toString(countedByAll()));
                Thread.sleep(INTERVAL_MS);
            }
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
    }

    private long countedByAll() {
        IntStream parts = IntStream.range(0, counted.length() / APART);
        return parts.mapToLong(part -> counted.get(part * APART)).min().orElseThrow();
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
