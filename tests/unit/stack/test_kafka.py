"""The broker's settings, as text."""

from __future__ import annotations

from pathlib import Path

from stack.kafka import render_properties


def properties() -> dict[str, str]:
    text = render_properties(port=9092, controller_port=9093, data=Path("/a b/data"))
    return dict(line.split("=", 1) for line in text.splitlines())


def test_every_listener_is_on_the_loopback_address() -> None:
    """Nobody on the network may write into a broker that asks for no password."""
    rendered = properties()
    for key in ("listeners", "advertised.listeners"):
        assert rendered[key] == "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093"
    assert rendered["controller.quorum.bootstrap.servers"] == "127.0.0.1:9093"


def test_who_comes_through_a_proxy_is_told_to_stay_there() -> None:
    """The further listener has a port of its own and advertises the proxy's; the others are as without it."""
    text = render_properties(port=9092, controller_port=9093, data=Path("/data"), proxied=(9094, 9095))
    rendered = dict(line.split("=", 1) for line in text.splitlines())
    usual = properties()
    for key, port in (("listeners", 9094), ("advertised.listeners", 9095)):
        assert rendered[key] == f"{usual[key]},PROXIED://127.0.0.1:{port}"
    protocols = rendered["listener.security.protocol.map"].split(",")
    assert "PROXIED:PLAINTEXT" in protocols  # else the broker does not start


def test_a_topic_that_nobody_created_does_not_come_into_being() -> None:
    """Faust refuses a table whose changelog was made with other partitions than its source."""
    assert properties()["auto.create.topics.enable"] == "false"


def test_broker_takes_what_its_topics_take() -> None:
    """A changelog record of 32 MiB that the topic allows must not be refused by the broker."""
    rendered = properties()
    assert int(rendered["message.max.bytes"]) == 32 * 1024 * 1024
    assert int(rendered["replica.fetch.max.bytes"]) >= int(rendered["message.max.bytes"])


def test_one_node_is_enough_for_every_internal_topic() -> None:
    """Row A19's single machine has no second broker to copy to."""
    rendered = properties()
    assert {value for key, value in rendered.items() if key.endswith(("replication.factor", "min.isr"))} == {"1"}


def test_folder_with_a_space_stays_one_value() -> None:
    """Homes with spaces exist."""
    assert properties()["log.dirs"] == "/a b/data"
