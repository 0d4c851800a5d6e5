"""When certificates end is read as OpenSSL reads it, of every file that a process uses, and of none that it does not."""

from __future__ import annotations

import ssl
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import certifi
import pytest

from streams import kafka_access, postgres_access
from streams.certificates import READ_INTERVAL_S, UNREADABLE_S, WatchedFile, ends_s, show_certificates
from streams.clock import SYSTEM_CLOCK
from streams.metrics import SinkMetrics
from streams.settings import load_settings
from tests.support.certificates import Certificates, end_authority, make_certificates
from tests.support.clock import SteppedClock

NAME = "tally_certificate_expiry_timestamp_seconds"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def of_openssl(path: Path) -> float:
    """Return the end of a file's first certificate by CPython's own decoder, which it keeps for its tests."""
    decoder: Any = ssl
    return float(ssl.cert_time_to_seconds(decoder._ssl._test_decode_cert(str(path))["notAfter"]))


def test_ends_are_those_of_openssl_for_all_authorities_of_the_web() -> None:
    """A hundred and more, by every authority's own habits."""
    bundle = Path(certifi.where())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(bundle)
    expected = sorted(ssl.cert_time_to_seconds(str(each["notAfter"])) for each in context.get_ca_certs())
    assert len(expected) > 100
    assert sorted(ends_s(bundle.read_text())) == expected


def test_end_of_a_client_is_read_too(certificates: Certificates) -> None:
    """Python's `ssl` tells of authorities only, and a client's own certificate is what is most often forgotten."""
    path = certificates.certificate("client")
    assert ends_s(path.read_text()) == [of_openssl(path)]


def test_authority_that_ends_now_has_ended(tmp_path: Path) -> None:
    """What the alert is seen firing with, in tests/integration/test_alerts.py."""
    made = make_certificates(tmp_path)
    end_authority(made)
    assert ends_s(made.authority.read_text()) == [pytest.approx(time.time(), abs=60)]


def test_damaged_certificate_is_a_value_error_wherever_it_is_cut(certificates: Certificates) -> None:
    """A file that is being written must not end the process that looks at it."""
    der = ssl.PEM_cert_to_DER_cert(certificates.authority.read_text())
    for length in range(len(der)):
        text = b64encode(der[:length]).decode()
        with pytest.raises(ValueError, match=r"\w"):
            ends_s(f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")


def test_of_authorities_the_last_counts_and_of_a_chain_the_first(tmp_path: Path) -> None:
    """A bundle of the system's holds some that end soon and that nobody uses; a chain breaks at its weakest."""
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(Path(certifi.where()).read_text())
    ends = ends_s(bundle.read_text())
    assert WatchedFile(bundle, last=True, kept=False, clock=SYSTEM_CLOCK).expires_at_s() == max(ends)
    assert WatchedFile(bundle, last=False, kept=False, clock=SYSTEM_CLOCK).expires_at_s() == min(ends)


@pytest.mark.parametrize("kept", [True, False])
def test_renewed_file_counts_where_it_is_read_again(certificates: Certificates, tmp_path: Path, *, kept: bool) -> None:
    """Kafka's clients go on with the old one until they are started anew, and the alert must not end before that."""
    path, clock = tmp_path / "client.pem", SteppedClock()
    path.write_text(certificates.certificate("client").read_text())
    watched = WatchedFile(path, last=False, kept=kept, clock=clock)
    path.write_text(Path(certifi.where()).read_text())
    soon, later = of_openssl(certificates.certificate("client")), min(ends_s(path.read_text()))
    assert watched.expires_at_s() == soon < later
    clock.step(READ_INTERVAL_S)
    assert watched.expires_at_s() == (soon if kept else later)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_file_that_cannot_be_read_has_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None) -> None:
    """The next start or connection fails on it: that is as good as expired, and one line says which file it is."""
    path, clock = tmp_path / "client.pem", SteppedClock()
    if content is not None:
        path.write_bytes(content)
    watched = WatchedFile(path, last=False, kept=False, clock=clock)
    for _ in range(3):
        assert watched.expires_at_s() == UNREADABLE_S
        clock.step(READ_INTERVAL_S)
    assert [record.getMessage().startswith(f"cannot read certificates of {path}") for record in caplog.records] == [True]


def test_files_are_those_that_a_process_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the settings, and by libpq's own variables; none of a protocol or mode that uses no certificate."""
    named = {"TALLY_KAFKA_CA_FILE": "/a", "TALLY_KAFKA_CERT_FILE": "/b"}
    secure = load_settings({**named, "TALLY_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}).kafka
    assert kafka_access.certificate_files(secure) == {"kafka_ca": Path("/a"), "kafka_cert": Path("/b")}
    assert kafka_access.certificate_files(load_settings(named).kafka) == {}
    url = "postgresql://u@h/d?sslmode={}&sslrootcert=/c"
    assert postgres_access.certificate_files(url.format("verify-full")) == {"postgres_ca": Path("/c")}
    assert postgres_access.certificate_files(url.format("disable")) == {}
    assert postgres_access.certificate_files("host=h sslrootcert=system") == {}
    monkeypatch.setenv("PGSSLCERT", "/d")
    assert postgres_access.certificate_files("postgresql://u@h/d") == {"postgres_cert": Path("/d")}
    assert postgres_access.certificate_files("no DSN") == {}


def test_each_file_is_a_series_by_its_name(certificates: Certificates) -> None:
    """Names, not paths: a label's values are a closed set."""
    metrics = SinkMetrics()
    show_certificates(metrics, {"kafka_ca": certificates.authority}, SYSTEM_CLOCK)
    (line,) = (line for line in metrics.text().decode().splitlines() if line.startswith(NAME))
    assert line.startswith(f'{NAME}{{file="kafka_ca"}} ')
    assert float(line.split()[1]) == of_openssl(certificates.authority)
