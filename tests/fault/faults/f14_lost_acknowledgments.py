"""F14: Kafka has stored what was produced, and the answer that says so is lost: the repetition must not count."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

from tests.fault.case import Case
from tests.fault.load import LOAD
from tests.fault.stage import GATEWAY, Stage, System

PRODUCE_REQUEST = re.compile(rb"\x00\x00\x00[\x03-\x0d].{4}\x00[\x01-\x7f][\w.-]+", re.DOTALL)
"""Kafka protocol, request header: api key 0, a version, correlation id, length of the client id, client id."""
EVERY = 20
CUTS, CUTS_LONG = 12, 200
CUT_WITHIN_S = 600.0
ANY_ANSWER_EVERY = 40
LOST_ANSWERS, LOST_ANSWERS_LONG = 6, 100


def inject(stage: Stage) -> None:
    stage.sleep(stage.chance.uniform(0.5, 1.5))
    stage.mark(f"the acknowledgment of every {EVERY}th produce request is lost")
    proxy, before = stage.kafka_proxy, stage.kafka_proxy.cuts
    cuts = CUTS_LONG if stage.is_long else CUTS
    proxy.cut_when(each_produce(EVERY), times=cuts)
    stage.wait_until(lambda: proxy.cuts >= before + cuts, f"{cuts} acknowledgments lost", within_s=CUT_WITHIN_S)
    stage.mark(f"every {ANY_ANSWER_EVERY}th answer of kafka is lost, whatever it is")
    cuts += LOST_ANSWERS_LONG if stage.is_long else LOST_ANSWERS
    proxy.lose_answers(ANY_ANSWER_EVERY)
    stage.wait_until(lambda: proxy.cuts >= before + cuts, f"{cuts} answers lost", within_s=CUT_WITHIN_S)


def each_produce(every: int) -> Callable[[bytes], bool]:
    """Return what is true of every so many produce requests, of all connections together."""
    numbers = itertools.count(1)
    return lambda seen: bool(PRODUCE_REQUEST.search(seen)) and next(numbers) % every == 0


def heal(stage: Stage) -> None:
    stage.kafka_proxy.heal()


CASE = Case(
    id="F14",
    title="acknowledgments of the broker lost",
    inject=inject,
    heal=heal,
    system=System(kafka_proxy_of=("worker-0", GATEWAY, LOAD)),
)
