"""Show when the certificates in our files end, before connections fail for it.

Python's own `ssl` tells the end of an authority's certificate only, so the few fields that lead to it are read here, as
RFC 5280 (4.1) and X.690 have them. Nothing is verified: that is the connection's affair.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from streams.clock import Clock
from streams.metrics import ProcessMetrics

log = logging.getLogger(__name__)

READ_INTERVAL_S = 15.0
UNREADABLE_S = 0.0
"""What is shown for a file that cannot be read: long past, since the next connection, or the next start, fails."""
AUTHORITIES = frozenset({"kafka_ca", "postgres_ca"})
KEPT_FROM_THE_START = frozenset({"kafka_ca", "kafka_cert"})
"""Clients of Kafka go on with what they read at their start; libpq reads its files at each connection."""
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_EXPLICIT_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18
_VALIDITY = 3
"""Its place among the fields of a certificate, behind serial number, algorithm and issuer; the version may be missing."""


def show_certificates(metrics: ProcessMetrics, files: Mapping[str, Path], clock: Clock) -> None:
    """Show for each of *files*, by its name, when it ends; nothing where there are none."""
    for name, path in files.items():
        watched = WatchedFile(path, last=name in AUTHORITIES, kept=name in KEPT_FROM_THE_START, clock=clock)
        metrics.certificate_expiry.labels(name).set_function(watched.expires_at_s)


class WatchedFile:
    """When the certificates of one file end, looked at now and then."""

    def __init__(self, path: Path, *, last: bool, kept: bool, clock: Clock) -> None:
        """Read the file for the first time.

        Args:
            last: of several, the one that lasts longest counts: any authority may have signed. Else the first to end, for a
                chain holds no longer.
            kept: what was read first counts on, for this process uses it until it ends.
        """
        self._path = path
        self._chosen: Callable[[Iterable[float]], float] = max if last else min
        self._clock = clock
        self._read_at_s = clock.monotonic_s()
        self._now = float("inf")
        self._now = self._read()
        self._at_start = self._now if kept else float("inf")

    def expires_at_s(self) -> float:
        """Return the end, Unix time; `UNREADABLE_S` where the file holds no certificate that can be read."""
        now_s = self._clock.monotonic_s()
        if now_s - self._read_at_s >= READ_INTERVAL_S:
            self._now, self._read_at_s = self._read(), now_s
        return min(self._now, self._at_start)

    def _read(self) -> float:
        try:
            return self._chosen(ends_s(self._path.read_text(encoding="ascii", errors="replace")))
        except (OSError, ValueError) as error:
            if self._now != UNREADABLE_S:
                log.warning("cannot read certificates of %s: %s", self._path, error)
            return UNREADABLE_S


def ends_s(pem: str) -> list[float]:
    """Return when each certificate of a text ends, Unix time, in their order; at least one.

    Raises:
        ValueError: there is none, or one is damaged.
    """
    found = [_end_of(ssl.PEM_cert_to_DER_cert(match[0])) for match in _PEM.finditer(pem)]
    if not found:
        raise ValueError("no certificate in PEM")
    return found


def _end_of(der: bytes) -> float:
    try:
        ((_, certificate),) = _elements(der)
        (_, signed), *_ = _elements(certificate)
        fields = [content for tag, content in _elements(signed) if tag != _EXPLICIT_VERSION]
        _, (tag, text) = _elements(fields[_VALIDITY])
    except IndexError:
        raise ValueError("a certificate is cut off") from None
    return _instant_s(tag, text.decode("ascii"))


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of the elements that stand one after the other."""
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:  # the length of the length
            digits = length & 0x7F
            length, at = int.from_bytes(der[at : at + digits], "big"), at + digits
        if at + length > len(der):
            raise IndexError
        yield tag, der[at : at + length]
        at += length


def _instant_s(tag: int, text: str) -> float:
    """Return Unix time.

    >>> _instant_s(_UTC_TIME, "491231235959Z") == _instant_s(_GENERALIZED_TIME, "20491231235959Z")
    True
    """
    if tag not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError("a certificate has no end")
    if tag == _UTC_TIME:  # two digits of the year, which stand for 1950 to 2049
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
