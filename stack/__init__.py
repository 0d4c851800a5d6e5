"""Kafka and Postgres for one machine without Docker, and the process manager that runs the whole job on it."""
