"""How Postgres lets its clients in: what libpq makes of a DSN and its own variables."""

from __future__ import annotations

from pathlib import Path

from psycopg import Error, pq
from psycopg.conninfo import conninfo_to_dict

FILES = {"postgres_ca": "sslrootcert", "postgres_cert": "sslcert"}
OF_THE_SYSTEM = "system"
"""What libpq takes for the system's authorities, and for no file."""


def certificate_files(dsn: str) -> dict[str, Path]:
    """Return the files of certificates that a DSN, or libpq's variables, name; none that lie where libpq looks by itself."""
    named = {option.keyword.decode(): (option.val or b"").decode() for option in pq.Conninfo.get_defaults()}
    try:
        named |= {keyword: str(value) for keyword, value in conninfo_to_dict(dsn).items()}
    except Error:  # whoever connects says so
        return {}
    if named["sslmode"] == "disable":
        return {}
    return {name: Path(named[keyword]) for name, keyword in FILES.items() if named[keyword] not in ("", OF_THE_SYSTEM)}
