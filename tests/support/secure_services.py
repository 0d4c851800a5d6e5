"""Kafka and Postgres as production runs them: TLS, passwords, certificates of clients."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from unittest import mock
from urllib.parse import quote

from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from stack import postgres as stack_postgres
from stack.kafka import LocalKafka
from stack.ports import LOOPBACK, free_port
from stack.postgres import LocalPostgres
from tests.support.certificates import Certificates

USER = "tally"
"""May everything, like the two that have no name of SASL: the plain listener of the test, and the client's certificate."""
PASSWORD = "a pass;word\"of'many\\signs"


@dataclass(frozen=True)
class Right:
    """What a principal may do with a resource; a name that ends with * means all that begin so."""

    principal: str
    kind: str
    name: str
    operation: str

    def covers(self, operation: str, topic: str) -> bool:
        """Say whether it lets its principal do this with a topic."""
        is_named = topic.startswith(self.name[:-1]) if self.name.endswith("*") else topic == self.name
        return self.kind == "topic" and is_named and self.operation in (operation, "All")

    @property
    def acl(self) -> ACL:
        pattern = ACLResourcePatternType.PREFIXED if self.name.endswith("*") else ACLResourcePatternType.LITERAL
        resource = ResourcePattern(KINDS[self.kind], self.name.removesuffix("*"), pattern)
        operation = ACLOperation[self.operation.upper()]
        return ACL(f"User:{self.principal}", "*", operation, ACLPermissionType.ALLOW, resource)


KINDS = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "transactional id": ResourceType.TRANSACTIONAL_ID}
_ROW = re.compile(r"^\| `(\w+)` \| (topic|group|transactional id)s? (.+?) \| ([\w, ]+) \|$", re.MULTILINE)


def documented_rights(text: str) -> list[Right]:
    """Return the rights that a table of a document lists: `principal`, kind and `names`, operations."""
    return [
        Right(principal, kind, name, operation)
        for principal, kind, names, operations in _ROW.findall(text)
        for name in re.findall(r"`([^`]+)`", names)
        for operation in operations.split(", ")
    ]


class SecureKafka(LocalKafka):
    """A node with two more listeners: `secure` wants TLS and a password, `mutual` TLS and a certificate. It checks rights."""

    def __init__(self, home: Path, certificates: Certificates) -> None:
        super().__init__(home)
        self._certificates = certificates
        self.ports = {"SECURE": free_port(), "MUTUAL": free_port()}

    def servers_of(self, listener: str) -> str:
        """Bootstrap servers of one of the two."""
        return f"{LOOPBACK}:{self.ports[listener]}"

    def add_users(self, *names: str) -> None:
        """Make users of SCRAM; that of PLAIN stands in the properties."""
        wanted = [UserScramCredentialUpsertion(name, ScramMechanism.SCRAM_SHA_512, PASSWORD) for name in names]
        with closing(KafkaAdminClient(bootstrap_servers=self.servers)) as admin:
            assert admin.alter_user_scram_credentials(wanted) == dict.fromkeys(names)

    def grant(self, rights: Iterable[Right]) -> None:
        """Let principals do what they may, and nothing else."""
        with closing(KafkaAdminClient(bootstrap_servers=self.servers)) as admin:
            assert not admin.create_acls([right.acl for right in rights])["failed"]

    def _choose_ports(self) -> None:
        super()._choose_ports()
        addresses = "".join(f",{name}://{LOOPBACK}:{port}" for name, port in self.ports.items())
        further = {"listeners": addresses, "advertised.listeners": addresses}
        further["listener.security.protocol.map"] = ",SECURE:SASL_SSL,MUTUAL:SSL"
        lines = [line + further.get(line.partition("=")[0], "") for line in self._properties_file.read_text().splitlines()]
        self._properties_file.write_text("\n".join([*lines, *self._properties()]) + "\n")

    def _properties(self) -> list[str]:
        quoted = PASSWORD.replace("\\", "\\\\").replace('"', '\\"')
        plain = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{quoted}";'
        values: dict[str, object] = {
            "secure.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
            "secure.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
            "secure.plain.sasl.jaas.config": plain.replace("\\", "\\\\"),
            "mutual.ssl.client.auth": "required",
            "mutual.ssl.truststore.type": "PEM",
            "mutual.ssl.truststore.location": self._certificates.authority,
        }
        for listener in ("secure", "mutual"):
            values[f"{listener}.ssl.keystore.type"] = "PEM"
            values[f"{listener}.ssl.keystore.location"] = self._certificates.key_and_certificate("server")
        rights = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{USER};User:CN=client",
        }
        return [f"listener.name.{key}={value}" for key, value in values.items()] + [
            f"{key}={value}" for key, value in rights.items()
        ]


class SecurePostgres(LocalPostgres):
    """A server with TLS, of the system's binaries: those of the wheel are built without."""

    def __init__(self, home: Path, certificates: Certificates, *, binaries: Path) -> None:
        super().__init__(home)
        self._certificates = certificates
        self._folder = binaries

    def prepare(self) -> None:
        with mock.patch.object(stack_postgres, "find_binaries", lambda *_: self._folder):
            super().prepare()
        for name, text in (
            ("server.pem", self._certificates.certificate("server").read_text()),
            ("server.key", self._certificates.key("server").read_text()),
        ):
            path = self.data / name
            path.write_text(text)
            path.chmod(0o600)
            if self.user is not None:
                shutil.chown(path, self.user)

    def command(self) -> list[str]:
        options = {"ssl": "on", "ssl_cert_file": "server.pem", "ssl_key_file": "server.key"}
        return [*super().command(), *(word for key, value in options.items() for word in ("-c", f"{key}={value}"))]

    def verified_dsn(self, authority: Path) -> str:
        """Return a URL that wants a certificate which *authority* has signed for this address."""
        return f"{self.dsn}?sslmode=verify-full&sslrootcert={quote(str(authority))}"


def postgres_with_tls() -> Path | None:
    """Return the folder of a Postgres that was built with OpenSSL."""
    for folder in [*stack_postgres._wheel_folders(), *stack_postgres._system_folders()]:
        program = folder / "pg_config"
        if program.is_file():
            answer = subprocess.run([program, "--configure"], capture_output=True, text=True, check=False)
            if "openssl" in answer.stdout and (folder / "initdb").is_file():
                return folder
    return None
