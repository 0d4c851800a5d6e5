"""Send events to Tally: `AnalyticsClient` for threads, `AsyncAnalyticsClient` for asyncio. No framework is loaded."""

from __future__ import annotations

from tally_client.async_client import AsyncAnalyticsClient
from tally_client.client import AnalyticsClient
from tally_client.errors import ClientError, CredentialsError, DeliveryError, SpoolError, TransportError
from tally_client.options import Options
from tally_client.outbox import Stats
from tally_client.outcomes import Outcome
from tally_client.tokens import Credentials, PlatformTokens, SharedCredentials, api_key, bearer
from tally_client.transport import Answer, HttpTransport, Transport
from tally_client.version import VERSION

__version__ = VERSION
__all__ = [
    "AnalyticsClient",
    "Answer",
    "AsyncAnalyticsClient",
    "ClientError",
    "Credentials",
    "CredentialsError",
    "DeliveryError",
    "HttpTransport",
    "Options",
    "Outcome",
    "PlatformTokens",
    "SharedCredentials",
    "SpoolError",
    "Stats",
    "Transport",
    "TransportError",
    "__version__",
    "api_key",
    "bearer",
]
