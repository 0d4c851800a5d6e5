"""API keys: whose they are, when they end, what their file holds, and the command that writes it."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.__main__ import main
from gateway.auth.api_keys import ApiKeyAuthenticator, new_key, read_keys
from gateway.auth.door import TokensAndKeys
from gateway.auth.identity import Identity, Quota, RefusalReason, Refused
from gateway.auth.watched_file import BadDocumentError
from tests.support.clock import SteppedClock

NOW_MS = 1_700_000_000_000
NOW = datetime.fromtimestamp(NOW_MS / 1000, UTC)


def authenticator_of(path: Path, clock: SteppedClock | None = None) -> ApiKeyAuthenticator:
    return ApiKeyAuthenticator(read_keys(path), clock=clock or SteppedClock(now_ms=NOW_MS))


def refused(authenticator: ApiKeyAuthenticator, key: str | bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        authenticator.identity_of(key.encode() if isinstance(key, str) else key)
    return caught.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def add(path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return a new key, as the command shows it."""
    assert main(["keys", "add", "--file", str(path), "--name", "shop", "--products", "web", *words]) == 0
    return capsys.readouterr().out.strip()


async def test_a_key_says_whose_it_is_and_what_it_may_write(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Row 3 of the security notes: scoped to products and streams; by the scheme of its own, in any case."""
    key = add(path, capsys, "--events-per-s", "5")
    door = TokensAndKeys(None, authenticator_of(path))
    identity = await door.identify([(b"authorization", b"aPiKeY " + key.encode())])
    assert identity == Identity("shop", frozenset({"web"}), frozenset({"events.v1"}), "api_key", Quota(5.0, None))
    assert identity.may("web", "events.v1")
    assert not identity.may("other", "events.v1")
    assert not identity.may("web", "user-tags.v1")
    everything = add(path, capsys, "--products", "*", "--streams", "*")
    assert authenticator_of(path).identity_of(everything.encode()).may("any", "any")


def test_a_key_that_is_not_ours_is_refused_and_nothing_tells_why(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Row 3 of the security notes: a right prefix with a wrong secret must not look different."""
    key = add(path, capsys)
    keys = authenticator_of(path)
    prefix, _, secret = key.partition("_")
    wrong = ("", "_", prefix, f"{prefix}_", f"{prefix}_x{secret[1:]}x", f"{'0' * 12}_{secret}", f"{key}=", key.upper(), "é")
    assert {(found.status, found.detail) for found in (refused(keys, each) for each in wrong)} == {(401, "Unknown API key")}


@given(st.binary(max_size=100))
def test_no_bytes_are_a_key_or_a_bug(key: bytes) -> None:
    """Anybody can send them."""
    stored, _ = new_key("shop", created_at=NOW, products=None, streams=None)
    assert refused(ApiKeyAuthenticator({stored.prefix: stored}), key).status == 401


def test_the_file_holds_no_key_and_its_owner_alone_reads_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Row 3 of the security notes: a dump of it is of no use, nor is what `list` shows; the temporary file leaves nothing."""
    key = add(path, capsys)
    secret = key.partition("_")[2]
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {found.name for found in path.parent.iterdir()} == {path.name, f"{path.name}.lock"}
    assert main(["keys", "list", "--file", str(path)]) == 0
    shown = capsys.readouterr().out
    assert key.partition("_")[0] in shown
    assert secret not in shown
    assert read_keys(path)[key[:12]].sha256 not in shown


def test_a_revoked_key_is_refused_at_once_and_one_that_ends_from_then_on(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 3 of the security notes: the old key and the new one work in the overlap, the old one is refused after it."""
    old, new, lost = add(path, capsys), add(path, capsys), add(path, capsys)
    assert main(["keys", "revoke", lost, "--file", str(path)]) == 0
    assert main(["keys", "revoke", old[:12], "--in-hours", "2", "--file", str(path)]) == 0
    clock = SteppedClock(now_ms=int(datetime.now(UTC).timestamp() * 1000))
    keys = authenticator_of(path, clock)
    assert refused(keys, lost).reason is RefusalReason.UNKNOWN_KEY
    assert keys.identity_of(old.encode()) == keys.identity_of(new.encode())
    clock.step(timedelta(hours=2).total_seconds() + 1)
    assert refused(keys, old).reason is RefusalReason.EXPIRED
    assert keys.identity_of(new.encode()).name == "shop"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["revoke", "0" * 12], 1),
        (["add", "--name", "a b", "--products", "x"], 1),
        (["add", "--name", "a", "--products", "x", "--events-per-s", "-1"], 1),
    ],
)
def test_a_command_that_cannot_be_done_changes_nothing(path: Path, words: list[str], status: int) -> None:
    """It says why in a line."""
    assert main(["keys", *words, "--file", str(path)]) == status
    assert not path.exists() or read_keys(path) == {}


def test_a_broken_file_is_not_written_over(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may still hold what somebody needs."""
    path.write_text("{")
    assert main(["keys", "add", "--name", "a", "--products", "x", "--file", str(path)]) == 1
    assert path.read_text() == "{"
    assert capsys.readouterr().out == ""


def test_a_command_without_a_file_says_which_setting_names_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is that of the gateway's settings, unless another is named."""
    monkeypatch.delenv("TALLY_AUTH_KEYS_FILE", raising=False)
    assert main(["keys", "list"]) == 2
    assert "TALLY_AUTH_KEYS_FILE" in capsys.readouterr().err


KEY = {"prefix": "0" * 12, "name": "a", "sha256": "0" * 64, "created_at": "2026-01-01T00:00:00Z"}
ALL = {"products": None, "streams": None}


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"keys": [KEY]},
        {"keys": [KEY | {"products": None}]},
        {"keys": [KEY | ALL | {"x": 1}]},
        {"keys": [KEY | ALL | {"expires_at": "2026-01-01T00:00:00"}]},
        {"keys": [KEY | ALL | {"sha256": "x"}]},
        {"keys": [KEY | ALL, KEY | ALL]},
    ],
)
def test_a_file_that_says_too_little_or_too_much_is_refused(path: Path, document: object) -> None:
    """A scope left out must not mean everything, and a word spelled wrong must not mean nothing."""
    path.write_text(json.dumps(document))
    with pytest.raises(BadDocumentError):
        read_keys(path)
    path.write_text(json.dumps({"keys": [KEY | ALL]}))
    assert read_keys(path)["0" * 12].products is None
