"""The version of the client, and the names it gives itself on the wire."""

from __future__ import annotations

import platform

VERSION = "0.1.0"
SDK = f"tally-client/{VERSION}"
USER_AGENT = f"{SDK} python/{platform.python_version()}"
