"""Start the gateway: `python -m gateway`. Exit code 2 and one line when the settings are wrong."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from gateway.log_lines import configure_logging
from gateway.server import serve
from streams.errors import SettingsError
from streams.settings import load_settings

SETTINGS_EXIT_CODE = 2


def main() -> int:
    """Return the exit code."""
    try:
        settings = load_settings()
        if not settings.kafka.servers:
            raise SettingsError("kafka.servers is empty; `make run` sets it, or set TALLY_KAFKA_SERVERS=host:port")
        configure_logging(settings.log.level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except SettingsError as error:
        sys.stderr.write(f"gateway: {error}\n")
        return SETTINGS_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
