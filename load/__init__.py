"""Traffic for a running gateway, and events for tests and benchmarks: the same for the same seed."""
