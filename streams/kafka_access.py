"""How every client of Kafka is let in: TLS and SASL from the settings, in the words that aiokafka and kafka-python share."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from streams.errors import SettingsError
from streams.settings import Kafka


def access(kafka: Kafka) -> dict[str, Any]:
    """Return the keyword arguments of a client, whichever library it is of; none where the listener is plaintext.

    Raises:
        SettingsError: a file cannot be used, or the name or password is missing.
    """
    named: dict[str, Any] = {}
    if kafka.security_protocol == "PLAINTEXT":
        return named
    named["security_protocol"] = kafka.security_protocol
    if context := tls_context(kafka):
        named["ssl_context"] = context
    if uses_sasl(kafka):
        for key, value in (("sasl_username", kafka.sasl_username), ("sasl_password", kafka.sasl_password)):
            if not value:
                variable = f"TALLY_KAFKA_{key.upper()}"
                raise SettingsError(f"kafka.{key} is empty: {kafka.security_protocol} needs it; set {variable}")
        named["sasl_mechanism"] = kafka.sasl_mechanism
        named["sasl_plain_username"] = kafka.sasl_username
        named["sasl_plain_password"] = kafka.sasl_password
    return named


def uses_sasl(kafka: Kafka) -> bool:
    """Say whether brokers want a name and a password."""
    return kafka.security_protocol.startswith("SASL_")


def certificate_files(kafka: Kafka) -> dict[str, Path]:
    """Return the files of certificates that a client reads at its start, by what they are; none without TLS."""
    named = {"kafka_ca": kafka.ca_file, "kafka_cert": kafka.cert_file} if kafka.security_protocol.endswith("SSL") else {}
    return {name: Path(path) for name, path in named.items() if path}


def tls_context(kafka: Kafka) -> ssl.SSLContext | None:
    """Return what verifies the brokers' certificates and names, and shows ours; None without TLS.

    Raises:
        SettingsError: a file cannot be used.
    """
    if not kafka.security_protocol.endswith("SSL"):
        return None
    try:
        context = ssl.create_default_context(cafile=kafka.ca_file or None)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(
            f"kafka.ca_file is {kafka.ca_file!r}: {_reason(error)}; right is a file of PEM certificates"
        ) from error
    if kafka.cert_file:
        try:
            context.load_cert_chain(kafka.cert_file, kafka.key_file or None)
        except OSError as error:
            files = f"{kafka.cert_file!r} and {kafka.key_file!r}"
            raise SettingsError(
                f"kafka.cert_file and kafka.key_file are {files}: {_reason(error)}; right are PEM files that belong together"
            ) from error
    return context


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
