"""Say what the subject of a token may write: by the rule `urn:<organization>:<product>`, or as a file of subjects says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from gateway.auth.identity import Identity, Quota, Refused
from gateway.auth.watched_file import read_document

URN = re.compile(r"urn:([a-z-]+):([a-z-]+|\*)")
ALL = "*"
Rate = Annotated[float, msgspec.Meta(ge=0)]


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one subject may write; null means all, and is never meant by leaving it out. Rates: those of the settings."""

    products: list[str] | None
    streams: list[str] | None
    events_per_s: Rate | None = None
    bytes_per_s: Rate | None = None


class SubjectsDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of subjects: a name, or the beginning of names with `*` behind, to what it may."""

    subjects: dict[str, Grant]


def read_subjects(path: Path) -> Mapping[str, Grant]:
    """Return what the file of subjects grants.

    Raises:
        BadDocumentError: it cannot be read, or is no such file.
    """
    return read_document(path, SubjectsDocument).subjects


class Subjects:
    """Subjects of the tokens of one intake."""

    def __init__(self, *, organization: str | None, is_of_product: bool, grants: Mapping[str, Grant] | None = None) -> None:
        """Take subjects of one *organization* only, or of any, and such as the file names.

        Args:
            is_of_product: by the rule a subject may write its own product only; otherwise all of them.
            grants: of the file of subjects; None: there is none, and the rule decides.
        """
        self._organization = organization
        self._is_of_product = is_of_product
        self._grants = grants

    def use(self, grants: Mapping[str, Grant]) -> None:
        """Let a file of subjects decide from now on."""
        self._grants = grants

    def identity_of(self, subject: str) -> Identity:
        """Return who *subject* is.

        Raises:
            Refused: 403; it may write nothing here.
        """
        urn = URN.fullmatch(subject)
        if self._organization is not None and (urn is None or urn[1] != self._organization):
            raise _forbidden()
        if self._grants is not None:
            return _granted(subject, _grant_of(subject, self._grants))
        if urn is None:
            raise _forbidden()
        own = self._is_of_product and urn[2] != ALL
        return Identity(subject, frozenset({urn[2]}) if own else None, None, "jwt")


def _grant_of(subject: str, grants: Mapping[str, Grant]) -> Grant:
    """Return the grant of the subject itself, else of the longest beginning."""
    if subject in grants:
        return grants[subject]
    beginnings = [name for name in grants if name.endswith(ALL) and subject.startswith(name[:-1])]
    if not beginnings or not subject:
        raise _forbidden()
    return grants[max(beginnings, key=len)]


def _granted(subject: str, grant: Grant) -> Identity:
    return Identity(subject, _set(grant.products), _set(grant.streams), "jwt", Quota(grant.events_per_s, grant.bytes_per_s))


def _set(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def _forbidden() -> Refused:
    return Refused(403, "The token's subject may not write here")
