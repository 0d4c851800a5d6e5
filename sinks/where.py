"""Say where one event is: `python -m sinks.where [--topic X] --partition P --offset O`, or `--user U --time T`.

Changes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from typing import Any

from streams.dead_letters import Position
from streams.errors import SettingsError, TallyError
from streams.reading import Reader
from streams.search import Search
from streams.settings import load_settings
from streams.topics import STREAMS, USER_TAGS

FAILED = 1
BAD_SETTINGS = 2


def main(arguments: list[str] | None = None) -> int:
    """Answer the question of the arguments as JSON and return the exit status; an error is one line."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
        if not settings.kafka.servers:
            raise SettingsError("kafka.servers is empty: say where Kafka is by TALLY_KAFKA_SERVERS (see stack.env)")
        url = options.url or f"http://{settings.gateway.host}:{settings.gateway.port}"
        stream = next(stream for stream in STREAMS if stream.topic == options.topic)
        with closing(Reader(settings.kafka)) as reader, closing(Search(stream, settings, reader, url=url)) as search:
            answers = _answers(options, search)
    except TallyError as error:
        sys.stderr.write(f"where: {error}\n")
        return BAD_SETTINGS if isinstance(error, SettingsError) else FAILED
    sys.stdout.write(json.dumps(answers, indent=2, ensure_ascii=False) + "\n")
    return 0


def _answers(options: argparse.Namespace, search: Search) -> list[dict[str, Any]]:
    if options.partition is not None and options.offset is not None:
        return [search.at(Position(options.topic, options.partition, options.offset))]
    if options.user is None or options.time is None:
        raise SettingsError("--partition and --offset are needed, or --user and --time")
    try:
        return search.of(options.user, options.time)
    except ValueError as error:
        raise SettingsError(f"--time is {options.time!r}: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sinks.where", description=__doc__)
    topics = [stream.topic for stream in STREAMS]
    parser.add_argument("--topic", choices=topics, default=USER_TAGS.topic, help="the source topic; default: %(default)s")
    parser.add_argument("--partition", type=int, help="of the source topic")
    parser.add_argument("--offset", type=int, help="in that partition")
    parser.add_argument("--user", help="whose event it is")
    parser.add_argument("--time", help="event time, as the event has it")
    parser.add_argument("--url", help="a gateway or worker; default: the gateway of the settings")
    return parser


if __name__ == "__main__":
    sys.exit(main())
