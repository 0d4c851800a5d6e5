"""Start the gateway: `python -m gateway`. Exit code 2 and one line when the settings are wrong."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from gateway.server import serve
from streams.errors import SettingsError
from streams.logs import Service, configure_logging
from streams.settings import load_settings

SETTINGS_EXIT_CODE = 2
CHATTY = ("aiokafka", "uvicorn")
"""These report every failed try to connect as an error; the gateway says once that Kafka does not answer."""


def main() -> int:
    """Return the exit code."""
    try:
        settings = load_settings()
        if not settings.kafka.servers:
            raise SettingsError("kafka.servers is empty; `make run` sets it, or set TALLY_KAFKA_SERVERS=host:port")
        configure_logging(settings, Service("gateway"), quiet=CHATTY)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except SettingsError as error:
        sys.stderr.write(f"gateway: {error}\n")
        return SETTINGS_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
