"""Which Java is good enough."""

from __future__ import annotations

import pytest

from stack.java import parse_major


@pytest.mark.parametrize(
    ("text", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "25" 2025-09-16', 25),
        ('java version "1.8.0_402"', 8),
        ('openjdk version "21-ea" 2023-09-19', 21),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "17.0.1"', 17),
        ("The operation could not be completed. Unable to locate a Java Runtime.", 0),
        ("", 0),
    ],
)
def test_major_version_is_read_from_what_java_says(text: str, major: int) -> None:
    """Kafka 4 needs 17; the stub that some systems put on the path says no version at all."""
    assert parse_major(text) == major
