"""Certificates of a test's own, made by openssl: an authority, what it signs, and one that nobody trusts."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.stack_fixtures import REQUIRE_VARIABLE

NAMES = "subjectAltName=IP:127.0.0.1,DNS:localhost"


def openssl(*words: str, folder: Path) -> None:
    """Run openssl in *folder*; a machine without it skips the test, or fails it where services are required."""
    program = shutil.which("openssl")
    if program is None:
        if os.environ.get(REQUIRE_VARIABLE) == "1":
            pytest.fail("openssl is required and not installed")
        pytest.skip("NO OPENSSL")
    subprocess.run([program, *words], cwd=folder, check=True, capture_output=True)


@dataclass(frozen=True)
class Certificates:
    """Files of PEM text in one folder."""

    folder: Path

    @property
    def authority(self) -> Path:
        """Signs `server` and `client`."""
        return self.folder / "authority.pem"

    @property
    def stranger(self) -> Path:
        """Signs neither."""
        return self.folder / "stranger.pem"

    def certificate(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def key_and_certificate(self, name: str) -> Path:
        """Return both in one file, as Kafka wants them."""
        path = self.folder / f"{name}-both.pem"
        path.write_text(self.key(name).read_text() + self.certificate(name).read_text())
        return path


def end_authority(certificates: Certificates) -> None:
    """Have the authority's certificate end now."""
    words = ("x509", "-in", "authority.pem", "-signkey", "authority.key", "-days", "0", "-out", "ended.pem")
    openssl(*words, folder=certificates.folder)
    (certificates.folder / "ended.pem").replace(certificates.authority)


def make_certificates(folder: Path) -> Certificates:
    """Make an authority, a stranger, and a certificate for 127.0.0.1 of a server and of a client."""
    folder.mkdir(parents=True, exist_ok=True)
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for name in ("authority", "stranger"):
        openssl(*new, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN=tally-test-{name}", folder=folder)
    signed = ("-CA", "authority.pem", "-CAkey", "authority.key", "-addext", NAMES, "-addext", "basicConstraints=CA:FALSE")
    for name in ("server", "client"):
        openssl(*new, *signed, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", folder=folder)
    return Certificates(folder)
