package tally.bench;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.time.Instant;

/** What a profile keeps of an event beside the key, which has cookie, action and time: the other fields, packed. */
public final class ProfileRow {
    /** A profile has at most so many events of each action. */
    public static final int NEWEST_MAX = 200;

    /** Rows are removed once in so many, since a reader leaves out what is too many: as seldom as Tally does. */
    public static final int TRIM_EVERY = 128;

    private static final int SECOND_CHARACTERS = "2022-03-01T00:00:00".length();
    private static final int ROW_BYTES = 96;

    private ProfileRow() {}

    public static byte[] encode(Tag tag) {
        ByteArrayOutputStream row = new ByteArrayOutputStream(ROW_BYTES);
        DataOutputStream out = new DataOutputStream(row);
        try {
            out.writeUTF(tag.time.substring(SECOND_CHARACTERS));
            out.writeUTF(tag.country);
            out.writeUTF(tag.device);
            out.writeUTF(tag.origin);
            out.writeBoolean(tag.product.id instanceof String);
            out.writeUTF(tag.product.id.toString());
            out.writeUTF(tag.product.brand);
            out.writeUTF(tag.product.category);
            out.writeInt((int) tag.product.price);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        return row.toByteArray();
    }

    /** Return the event of a row, as it was received. */
    public static Tag decode(String cookie, boolean isBuy, long atMs, byte[] row) {
        DataInputStream in = new DataInputStream(new ByteArrayInputStream(row));
        Tag tag = new Tag();
        tag.product = new Tag.Product();
        tag.cookie = cookie;
        tag.action = isBuy ? "BUY" : "VIEW";
        try {
            tag.time = Instant.ofEpochMilli(atMs).toString().substring(0, SECOND_CHARACTERS) + in.readUTF();
            tag.country = in.readUTF();
            tag.device = in.readUTF();
            tag.origin = in.readUTF();
            boolean isText = in.readBoolean();
            String id = in.readUTF();
            tag.product.id = isText ? id : Long.valueOf(id);
            tag.product.brand = in.readUTF();
            tag.product.category = in.readUTF();
            tag.product.price = in.readInt();
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        return tag;
    }
}
