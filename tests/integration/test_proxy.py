"""The proxy of the fault tests: every toxic does what a fault case relies on, on real sockets."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Literal

import pytest

from stack.ports import LOOPBACK, free_port, is_free
from tests.support.eventually import eventually
from tests.support.proxy import AHEAD_BYTES_MAX, Proxy

TIMEOUT_S = 20.0
SILENCE_S = 0.3
"""How long a client listens before it takes silence for silence; too short can only hide a fault of the proxy."""

SEGMENTS_IN = slice(152, 156)
"""Of Linux' struct tcp_info: tcpi_data_segs_in."""


class EchoServer:
    """Answers what it gets with the same bytes; remembers the bytes and how its connections ended."""

    def __init__(self) -> None:
        self.received = b""
        self.ends: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.listener = socket.create_server((LOOPBACK, 0))
        self.port = self.listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def close(self) -> None:
        for end in (self.listener, *self.connections):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(TIMEOUT_S)
        for end in (self.listener, *self.connections):
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self.connections.append(self.listener.accept()[0])
                self.threads.append(threading.Thread(target=self._echo, args=(self.connections[-1],)))
                self.threads[-1].start()

    def _echo(self, connection: socket.socket) -> None:
        try:
            while chunk := connection.recv(65536):
                self.received += chunk
                self.may_answer.wait(TIMEOUT_S)
                connection.sendall(chunk)
            self.ends.append("end")
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            self.ends.append("reset")


@pytest.fixture
def server() -> Iterator[EchoServer]:
    server = EchoServer()
    yield server
    server.close()


@pytest.fixture
def proxy(server: EchoServer) -> Iterator[Proxy]:
    with Proxy(server.port, seed=7) as proxy:
        yield proxy


class Client:
    """A connection through the proxy."""

    def __init__(self, proxy: Proxy) -> None:
        self.socket = socket.create_connection((LOOPBACK, proxy.port), timeout=TIMEOUT_S)

    def ask(self, request: bytes) -> bytes:
        """Return the whole answer, which is as long as the request."""
        self.socket.sendall(request)
        return self.read(len(request))

    def read(self, bytes_: int) -> bytes:
        """Return so many bytes, or fewer at the end."""
        answer = b""
        while len(answer) < bytes_ and (chunk := self.socket.recv(bytes_ - len(answer))):
            answer += chunk
        return answer

    def hears_nothing(self) -> bool:
        self.socket.settimeout(SILENCE_S)
        try:
            self.socket.recv(1)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(TIMEOUT_S)
        return False

    def is_reset(self) -> bool:
        """Wait for what comes next, and say whether it is a reset."""
        try:
            self.socket.recv(1)
        except ConnectionResetError:
            return True
        return False


Connect = Callable[[], Client]


@pytest.fixture
def connect(proxy: Proxy) -> Iterator[Connect]:
    """Gives clients that are closed at the end."""
    clients: list[Client] = []

    def connect() -> Client:
        clients.append(Client(proxy))
        return clients[-1]

    yield connect
    for client in clients:
        client.socket.close()


def test_without_toxics_bytes_and_ends_pass_both_ways(server: EchoServer, proxy: Proxy, connect: Connect) -> None:
    """The control: a proxy that loses anything by itself proves nothing; a half-closed connection still answers."""
    client = connect()
    client.socket.sendall(b"question")
    client.socket.shutdown(socket.SHUT_WR)
    assert client.read(100) == b"question"
    assert server.ends == ["end"]
    eventually(lambda: proxy.open_connections == 0)
    assert (proxy.accepted, proxy.cuts) == (1, 0)


def test_megabytes_pass_unchanged(connect: Connect) -> None:
    """More than every buffer holds, asked and answered at the same time."""
    client = connect()
    sent = random.Random(7).randbytes(8 * AHEAD_BYTES_MAX)
    sender = threading.Thread(target=client.socket.sendall, args=(sent,))
    sender.start()
    assert client.read(len(sent)) == sent
    sender.join(TIMEOUT_S)


def test_down_cuts_and_refuses_until_healed_on_the_same_port(proxy: Proxy, connect: Connect) -> None:
    """A server that died and came back; meanwhile nobody else can take its port."""
    client, port = connect(), proxy.port
    assert client.ask(b"before") == b"before"
    proxy.down()
    assert client.is_reset()
    with pytest.raises(ConnectionRefusedError):
        connect()
    assert not is_free(port)
    proxy.heal()
    assert connect().ask(b"after") == b"after"
    assert proxy.port == port


def test_reset_ends_open_connections_only(server: EchoServer, proxy: Proxy, connect: Connect) -> None:
    """Both sides see a reset, as when a firewall forgets its connections."""
    clients = [connect(), connect()]
    assert {client.ask(b"before") for client in clients} == {b"before"}
    proxy.reset()
    assert [client.is_reset() for client in clients] == [True, True]
    eventually(lambda: server.ends == ["reset", "reset"])
    assert connect().ask(b"after") == b"after"


def test_blackhole_holds_everything_back_until_healed(server: EchoServer, proxy: Proxy, connect: Connect) -> None:
    """Half open: connections live and new ones are accepted, but neither bytes nor ends arrive; then all of it does."""
    old, leaving = connect(), connect()
    assert (old.ask(b"1"), leaving.ask(b"2")) == (b"1", b"2")
    proxy.blackhole()
    new = connect()
    old.socket.sendall(b"3")
    new.socket.sendall(b"4")
    leaving.socket.close()
    assert old.hears_nothing()
    assert new.hears_nothing()
    assert (server.received, server.ends) == (b"12", [])
    proxy.heal()
    assert (old.read(1), new.read(1)) == (b"3", b"4")
    eventually(lambda: server.ends == ["end"])


def test_blackhole_swallows_answers_too(server: EchoServer, proxy: Proxy, connect: Connect) -> None:
    """What the server says on its own must not slip through."""
    client = connect()
    assert client.ask(b"1") == b"1"
    proxy.blackhole()
    server.connections[0].sendall(b"news")
    assert client.hears_nothing()
    proxy.heal()
    assert client.read(4) == b"news"


def test_blackhole_that_drops_resets_when_healed(server: EchoServer, proxy: Proxy, connect: Connect) -> None:
    """The other way a half-open connection ends: its peer has long forgotten it."""
    client = connect()
    assert client.ask(b"1") == b"1"
    proxy.blackhole(drop=True)
    client.socket.sendall(b"2")
    proxy.heal()
    assert client.is_reset()
    assert connect().ask(b"3") == b"3"
    assert server.received == b"13"


def test_latency_delays_each_way(proxy: Proxy, connect: Connect) -> None:
    """The question and the answer each take the delay."""
    proxy.latency(0.1)
    client, started_s = connect(), time.monotonic()
    assert client.ask(b"slow") == b"slow"
    assert time.monotonic() - started_s >= 2 * 0.1


def test_jitter_comes_from_the_seed(proxy: Proxy, connect: Connect) -> None:
    """A schedule that nobody can replay finds a fault once."""
    proxy.latency(0.0, jitter_s=0.2)
    draws = [random.Random(f"7/1/{direction}").random() for direction in ("up", "down")]
    client, started_s = connect(), time.monotonic()
    assert client.ask(b"slow") == b"slow"
    assert time.monotonic() - started_s >= sum(draws) * 0.2 > 0.1


def test_heal_lets_pass_at_once_what_a_toxic_holds_back(proxy: Proxy, connect: Connect) -> None:
    """An hour's delay must not outlive its toxic."""
    proxy.latency(3600.0)
    client = connect()
    client.socket.sendall(b"late")
    assert client.hears_nothing()
    proxy.heal()
    assert client.read(4) == b"late"


def test_bandwidth_limits_what_passes(proxy: Proxy, connect: Connect) -> None:
    """So many bytes take at least so long."""
    proxy.bandwidth(100_000)
    client, started_s = connect(), time.monotonic()
    assert len(client.ask(b"x" * 30_000)) == 30_000
    assert time.monotonic() - started_s >= 0.3


def test_slices_arrive_in_segments_of_their_own(proxy: Proxy, connect: Connect) -> None:
    """A reader that takes one read for one answer must meet an answer in pieces."""
    proxy.slice(7)
    client = connect()
    assert client.ask(b"y" * 100) == b"y" * 100
    information = client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    assert struct.unpack("I", information[SEGMENTS_IN])[0] >= 100 // 7


def test_cut_after_bytes_of_the_request(server: EchoServer, proxy: Proxy, connect: Connect) -> None:
    """A request torn in the middle: its beginning arrives, to the byte, counted from the call on."""
    client = connect()
    assert client.ask(b"whole") == b"whole"
    proxy.cut_after(4, "up")
    client.socket.sendall(b"torn request")
    assert client.is_reset()
    eventually(lambda: server.ends == ["reset"])
    assert server.received == b"wholetorn"
    assert proxy.cuts == 1


@pytest.mark.parametrize("bytes_", [0, 4])
def test_cut_after_bytes_of_the_answer(server: EchoServer, proxy: Proxy, connect: Connect, bytes_: int) -> None:
    """The request is served; its answer is lost, or torn."""
    proxy.cut_after(bytes_, "down")
    client = connect()
    client.socket.sendall(b"request")
    assert client.read(bytes_) == b"request"[:bytes_]
    assert client.is_reset()
    assert server.received == b"request"


def test_every_nth_answer_is_lost(server: EchoServer, proxy: Proxy, connect: Connect) -> None:
    """Counted over all connections, so that a client that comes again gets on."""
    proxy.lose_answers(3)
    client = connect()
    assert (client.ask(b"1"), client.ask(b"2")) == (b"1", b"2")
    client.socket.sendall(b"3")
    assert client.is_reset()
    again = connect()
    assert (again.ask(b"4"), again.ask(b"5")) == (b"4", b"5")
    assert server.received == b"12345"


@pytest.mark.parametrize(("when", "arrived"), [("before", b"BEGIN"), ("after", b"BEGINCOMMIT")])
def test_cut_when_the_client_says_a_word(
    server: EchoServer, proxy: Proxy, connect: Connect, when: Literal["before", "after"], arrived: bytes
) -> None:
    """Before: the word never arrives. After: it does, and its answer is lost. Once, as asked: the second try succeeds."""
    proxy.cut_when(lambda seen: b"COMMIT" in seen, "up", when=when, times=1)
    client = connect()
    assert client.ask(b"BEGIN") == b"BEGIN"
    client.socket.sendall(b"COMMIT")
    assert client.is_reset()
    assert server.received == arrived, "the reset comes when upstream has answered"
    assert connect().ask(b"COMMIT") == b"COMMIT"
    assert proxy.cuts == 1


def test_cut_after_a_request_waits_until_it_is_answered(server: EchoServer, proxy: Proxy, connect: Connect) -> None:
    """The work is done when the client learns that the line broke: what it asks next is not a race."""
    proxy.cut_when(lambda seen: b"COMMIT" in seen)
    client = connect()
    server.may_answer.clear()
    client.socket.sendall(b"COMMIT")
    assert client.hears_nothing()
    server.may_answer.set()
    assert client.is_reset()


@pytest.mark.parametrize(("when", "passed"), [("before", b"an"), ("after", b"answer")])
def test_cut_when_the_server_says_a_word_in_two_pieces(
    server: EchoServer, proxy: Proxy, connect: Connect, when: Literal["before", "after"], passed: bytes
) -> None:
    """A word may be split between two reads; the predicate sees what came before it."""
    proxy.cut_when(lambda seen: b"answer" in seen, "down", when=when)
    client = connect()
    assert client.ask(b"an") == b"an"
    client.socket.sendall(b"swer")
    assert b"an" + client.read(len(passed) - 2) == passed
    assert client.is_reset()


def test_healed_cuts_cut_no_more(proxy: Proxy, connect: Connect) -> None:
    """A fault is healed on exit whatever happened."""
    proxy.cut_after(4, "down")
    proxy.lose_answers(1)
    proxy.cut_when(lambda _: True)
    proxy.heal()
    assert connect().ask(b"a long request") == b"a long request"


def test_proxy_reads_only_so_far_ahead(proxy: Proxy, connect: Connect) -> None:
    """Back-pressure must reach the client: a proxy that takes everything hides a full server."""
    client = connect()
    assert client.ask(b"1") == b"1"
    proxy.blackhole()
    client.socket.settimeout(SILENCE_S)
    sent_bytes, limit_bytes = 0, 32 * AHEAD_BYTES_MAX
    with pytest.raises(TimeoutError):
        while sent_bytes < limit_bytes:
            sent_bytes += client.socket.send(b"z" * 65536)
    assert sent_bytes >= AHEAD_BYTES_MAX


def test_client_of_a_dead_upstream_is_reset_and_a_later_upstream_is_found(
    server: EchoServer, proxy: Proxy, connect: Connect
) -> None:
    """Proxy and server name each other's ports; one of them must be able to come first."""
    proxy.upstream_port = free_port()
    with pytest.raises(ConnectionResetError):  # sometimes so early that connecting fails already
        connect().read(1)
    proxy.upstream_port = server.port
    assert connect().ask(b"found") == b"found"


def test_stopped_proxy_leaves_nothing(proxy: Proxy, connect: Connect) -> None:
    """Neither port nor thread; started again it has its port."""
    client, port = connect(), proxy.port
    assert client.ask(b"1") == b"1"
    proxy.stop()
    assert client.is_reset()
    assert "proxy" not in {thread.name for thread in threading.enumerate()}
    assert is_free(port)
    proxy.start()
    assert proxy.port == port
    assert connect().ask(b"2") == b"2"
