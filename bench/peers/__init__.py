"""Programs of others that do the same work: one file a peer; the ones on the JVM are in `java/`."""
