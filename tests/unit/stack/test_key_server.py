"""The key server for development: its tokens, its keys, and the file of its clients."""

from __future__ import annotations

import json
from pathlib import Path

import jwt
import pytest

from stack.errors import StackError
from stack.key_server import KEYS_SHOWN, KeyServer
from stack.key_server_command import KeyServerPlan, serve_keys
from tests.support.clock import SteppedClock

NOW_S = 1_700_000_000


def unverified(token: str) -> dict[str, object]:
    """Return what a token says."""
    return jwt.decode(token, options={"verify_signature": False})


def test_tokens_are_those_of_the_platform() -> None:
    """P9: the claims that its clients and services look at; a refresh token does not end."""
    server = KeyServer({}, clock=SteppedClock(now_ms=NOW_S * 1000))
    access = unverified(server.access_token("courses"))
    assert access == {"sub": "urn:pennlabs:courses", "use": "access", "iat": NOW_S, "exp": NOW_S + 3600}
    refresh = unverified(server.refresh_token("courses"))
    assert refresh == {"sub": "urn:pennlabs:courses", "use": "refresh", "iat": NOW_S}
    server.names_keys = False
    assert "kid" not in jwt.get_unverified_header(server.access_token("courses"))


def test_the_key_before_stays_in_the_set_and_no_private_one_is_in_it() -> None:
    """P24: tokens of it are still under way; an older one is withdrawn."""
    server = KeyServer({})
    server.rotate()
    server.rotate()
    keys = server.key_set()["keys"]
    assert [key["kid"] for key in keys] == ["key-2", "key-3"]
    assert len(keys) == KEYS_SHOWN
    other = KeyServer({}, name="key-of-another-start").key_set()["keys"]
    assert [key["kid"] for key in other] == ["key-of-another-start-1"], "its keys are others, so their names are"
    assert not {"d", "p", "q", "dp", "dq", "qi"} & {name for key in keys for name in key}


@pytest.mark.parametrize("document", ["", "[]", '{"a": 5}', '{"A b": "secret"}'])
def test_a_bad_file_of_clients_stops_the_start(tmp_path: Path, document: str) -> None:
    """In one line."""
    path = tmp_path / "clients.json"
    path.write_text(document)
    with pytest.raises(StackError, match="secrets by client"):
        serve_keys(KeyServerPlan(port=1, organization="pennlabs", clients_file=path))
    with pytest.raises(StackError):
        serve_keys(KeyServerPlan(port=1, organization="pennlabs", clients_file=tmp_path / "none"))


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    """In one line, with what to do."""
    import socket

    path = tmp_path / "clients.json"
    path.write_text(json.dumps({"courses": "secret"}))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StackError, match="--port"):
            serve_keys(KeyServerPlan(port=taken.getsockname()[1], organization="pennlabs", clients_file=path))
