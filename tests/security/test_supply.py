"""What is installed was locked, and is in the bill of materials; it talks to nobody else; Kafka makes no topic by itself."""

from __future__ import annotations

import json
import os
import re
from importlib.metadata import distributions
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from psycopg.conninfo import conninfo_to_dict

from stack.errors import StackError
from stack.materials import write_bill
from tests.security.conftest import Job
from tests.support.builders import a_user_tag
from tests.support.connections import Connection, connections_of
from tests.support.stack_fixtures import REQUIRE_VARIABLE

ROOT = Path(__file__).parents[2]
LOOKS = 100
LOCK = (ROOT / "requirements.lock").read_text()


def named(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_locked_package_has_hashes() -> None:
    """A registry that is taken over delivers nothing that was not there when it was locked."""
    blocks = re.split(r"\n(?=\S)", re.sub(r"(?m)^#.*\n", "", LOCK).strip())
    assert len(blocks) > 30
    assert [block for block in blocks if "==" not in block or "--hash=sha256:" not in block] == []


def test_the_bill_of_materials_names_all_that_is_installed(tmp_path: Path) -> None:
    """Made from the declaration, outside the repository; every package of this environment is locked, and in it."""
    bill = tmp_path / "bill.json"
    try:
        write_bill(bill)
    except StackError as error:
        if os.environ.get(REQUIRE_VARIABLE) == "1":
            pytest.fail(f"the bill of materials is required: {error}")
        pytest.skip(f"NO REGISTRY: {error}")
    components = json.loads(bill.read_text())["components"]
    listed = {(named(component["name"]), component["version"]) for component in components}
    locked = {(named(name), version) for name, version in re.findall(r"(?m)^([A-Za-z0-9._-]+)==([^\s\\;]+)", LOCK)}
    installed = {(named(each.name), each.version) for each in distributions()}
    assert len(locked & installed) > 30
    assert locked & installed <= listed


def test_processes_talk_to_kafka_postgres_and_each_other_only(job: Job) -> None:
    """No telemetry, no look-up, no update: of all looks at all sockets while events come and questions are answered."""
    processes = [*(worker.process for worker in job.workers), job.gateway.process, job.sinks.process]
    pids = [process.pid for process in processes if process is not None]
    assert len(pids) == len(processes) == 4
    ours = {job.gateway.port, job.sinks.port, *(worker.port for worker in job.workers)}
    kafka, postgres = int(job.servers.rpartition(":")[2]), int(str(conninfo_to_dict(job.dsn)["port"]))
    seen: set[Connection] = set()
    for number in range(LOOKS):
        job.door.send(a_user_tag(cookie=f"talks-{number}"))
        job.door.profile(f"talks-{number}")
        seen |= {connection for pid in pids for connection in connections_of(pid)}
    asked = {connection for connection in seen if connection.local_port not in ours}
    assert {connection.port for connection in asked} >= {kafka, postgres}, "the test looks at the wrong sockets"
    strangers = {each for each in asked if not each.address.is_loopback or each.port not in {kafka, postgres, *ours}}
    assert strangers == set()


def test_kafka_makes_no_topic_that_nobody_created(job: Job) -> None:
    """A typo, or a stranger, would else leave topics with other partitions and no retention."""
    producer = KafkaProducer(bootstrap_servers=job.servers, max_block_ms=2_000)
    with pytest.raises(KafkaError):
        producer.send("nobody-made-this", b"x").get(timeout=5)
    producer.close()
    admin = KafkaAdminClient(bootstrap_servers=job.servers)
    topics = admin.list_topics()
    admin.close()
    assert "nobody-made-this" not in topics
