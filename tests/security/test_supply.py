"""What is installed was locked, and is in the bill of materials; Kafka makes no topic by itself."""

from __future__ import annotations

import json
import re
from importlib.metadata import distributions
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from stack.errors import StackError
from stack.materials import write_bill
from tests.security.conftest import Job

ROOT = Path(__file__).parents[2]
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
        pytest.skip(f"NO REGISTRY: {error}")
    components = json.loads(bill.read_text())["components"]
    listed = {(named(component["name"]), component["version"]) for component in components}
    locked = {(named(name), version) for name, version in re.findall(r"(?m)^([A-Za-z0-9._-]+)==([^\s\\;]+)", LOCK)}
    installed = {(named(each.name), each.version) for each in distributions()}
    assert len(locked & installed) > 30
    assert locked & installed <= listed


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
