"""Numbers with a method; not tests. Each run prints a table and says how it was taken."""
