package tally.bench;

import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.io.IOException;

/** One event, read as a program on the JVM would: Jackson, into a class, unknown fields left out. */
public final class Tag {
    private static final int MINUTE_CHARACTERS = "2022-03-01T00:00".length();
    private static final ObjectReader READER =
            new ObjectMapper().disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES).readerFor(Tag.class);

    public String time;
    public String action;
    public String origin;

    @JsonProperty("product_info")
    public Product product;

    /** What was looked at or bought. */
    public static final class Product {
        @JsonProperty("brand_id")
        public String brand;

        @JsonProperty("category_id")
        public String category;

        public long price;
    }

    /** Return the event that a record's value holds. */
    public static Tag parse(byte[] json) {
        try {
            return READER.readValue(json);
        } catch (IOException error) {
            throw new IllegalArgumentException("no event", error);
        }
    }

    /** Return the minute and the dimensions that the event is counted under. */
    public String cell() {
        String minute = time.substring(0, MINUTE_CHARACTERS);
        return minute + '|' + action + '|' + origin + '|' + product.brand + '|' + product.category;
    }
}
