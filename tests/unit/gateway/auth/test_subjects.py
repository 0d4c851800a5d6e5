"""What the subject of a token may write."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.auth.identity import Identity, Quota, Refused
from gateway.auth.subjects import Grant, Subjects, read_subjects
from gateway.auth.watched_file import BadDocumentError

LABS = Subjects(organization="pennlabs", is_of_product=False)
NATIVE = Subjects(organization=None, is_of_product=True)


@pytest.mark.parametrize("subject", ["urn:pennlabs:mobile-backend", "urn:pennlabs:*", "urn:pennlabs:-"])
def test_a_product_of_the_labs_may_write_for_all_of_them(subject: str) -> None:
    """P9: one back end sends for several products."""
    assert LABS.identity_of(subject) == Identity(subject, None, None, "jwt")


@pytest.mark.parametrize(
    "subject",
    ["", "urn:other:mobile", "urn:pennlabs:", "urn:pennlabs:Mobile", "urn:pennlabs:a\n", "xurn:pennlabs:a", "urn:pennlabs:a:b"],
)
def test_any_other_subject_is_forbidden_at_the_labs(subject: str) -> None:
    """P9: the token is right, its holder is not one of theirs."""
    with pytest.raises(Refused) as caught:
        LABS.identity_of(subject)
    assert caught.value.status == 403


def test_by_the_rule_a_subject_writes_its_own_product() -> None:
    """Row 4 of the security notes: and with a star all of them; a subject of no such form says nothing."""
    assert NATIVE.identity_of("urn:acme:web-shop").products == frozenset({"web-shop"})
    assert NATIVE.identity_of("urn:acme:*").products is None
    with pytest.raises(Refused):
        NATIVE.identity_of("user-17")


def test_a_file_of_subjects_decides_by_the_name_or_the_longest_beginning() -> None:
    """Also over subjects of no form; and nobody is in it who has no name."""
    subjects = Subjects(organization=None, is_of_product=True)
    subjects.use(
        {
            "service-a": Grant(["web"], ["events.v1"], events_per_s=5.0),
            "service-*": Grant([], None),
            "*": Grant(None, None),
        }
    )
    found = subjects.identity_of("service-a")
    assert found == Identity("service-a", frozenset({"web"}), frozenset({"events.v1"}), "jwt", Quota(5.0, None))
    assert subjects.identity_of("service-b").products == frozenset()
    assert subjects.identity_of("other").products is None
    with pytest.raises(Refused):
        subjects.identity_of("")


def test_a_file_does_not_let_other_organizations_in() -> None:
    """P9: the file may only narrow what the Labs' rule says."""
    subjects = Subjects(organization="pennlabs", is_of_product=False, grants={"*": Grant(["PCR"], None)})
    assert subjects.identity_of("urn:pennlabs:courses").products == frozenset({"PCR"})
    with pytest.raises(Refused):
        subjects.identity_of("urn:other:courses")


@pytest.mark.parametrize(
    "text", ["", "{}", '{"subjects":{"a":{}}}', '{"subjects":{"a":{"products":null,"streams":null,"x":1}}}']
)
def test_a_file_that_says_too_little_or_too_much_is_refused(tmp_path: Path, text: str) -> None:
    """A scope left out must not mean everything."""
    path = tmp_path / "subjects.json"
    path.write_text(text)
    with pytest.raises(BadDocumentError):
        read_subjects(path)
    path.write_text('{"subjects":{"a":{"products":["x"],"streams":null}}}')
    assert read_subjects(path) == {"a": Grant(["x"], None)}
