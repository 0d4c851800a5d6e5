"""Where it rests: a process and consumer group of its own that writes Postgres; no Faust."""
