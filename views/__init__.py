"""What is shown by a worker: queries, health, metrics; reads tables, writes none."""
