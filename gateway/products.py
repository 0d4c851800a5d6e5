"""Put together what products send to: `/v1/events`, `/v1/beacon`, `/analytics`, and what these need beside Kafka.

All of them write `events.v1`. Nothing here waits for Postgres or for a worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from gateway import analytics, events_beacon, events_published, events_route
from gateway.analytics import Analytics
from gateway.auth.door import Auth
from gateway.auth.edge import is_production, paths_of, with_cors
from gateway.body_room import BodyRoom
from gateway.events_beacon import BeaconRoute
from gateway.events_published import Published, json_schemas, openapi
from gateway.events_route import EventsRoute
from gateway.events_taking import EventTaker
from gateway.intake import Intake
from gateway.request_log import AsgiApp
from gateway.session_topic import SessionTopic
from gateway.sessions import Sessions
from streams.metrics import GatewayMetrics
from streams.settings import Settings
from streams.topics import DEAD_LETTERS, EVENTS


class Products:
    """The intakes of products, and the routes to them.

    Attributes:
        events: the intake of `events.v1`.
        letters: that of the dead letters which the gateway writes itself.
        routes: by path.
    """

    def __init__(self, settings: Settings, metrics: GatewayMetrics) -> None:
        """Read what authentication needs.

        Raises:
            SettingsError: it is not there, or wrong.
        """
        self._auth = Auth(settings, metrics)
        self._sessions = Sessions(settings.analytics)
        self._session_topic = SessionTopic(self._sessions, settings)
        self.events = Intake(EVENTS, settings, metrics)
        self.letters = Intake(DEAD_LETTERS, settings, metrics)
        self.routes = {
            path: with_cors(application, settings.gateway) for path, application in self._applications(settings, metrics)
        }

    def _applications(self, settings: Settings, metrics: GatewayMetrics) -> list[tuple[str, AsgiApp]]:
        room = BodyRoom()
        taker = EventTaker(self.events, self.letters, metrics, settings.events)
        transactions = Analytics(
            intake=self.events, sessions=self._sessions, door=self._auth.analytics, metrics=metrics, settings=settings,
            body_room=room,
        )  # fmt: skip
        is_hidden = is_production(settings.gateway)
        return [
            (events_route.PATH, EventsRoute(taker=taker, door=self._auth.events, metrics=metrics, room=room)),
            (events_beacon.PATH, BeaconRoute(taker=taker, door=self._auth.events, metrics=metrics, room=room)),
            (events_published.SCHEMAS_PATH, Published(json_schemas(), is_hidden=is_hidden)),
            (events_published.OPENAPI_PATH, Published(openapi(), is_hidden=is_hidden)),
            *((path, transactions) for path in sorted(paths_of(analytics.PATHS[0], settings.gateway))),
        ]

    @property
    def intakes(self) -> tuple[Intake, ...]:
        """What writes to Kafka."""
        return self.events, self.letters

    def works(self) -> list[Coroutine[Any, Any, None]]:
        """Return what runs as long as the gateway does: connections to Kafka, keys, sessions."""
        return [*(intake.run() for intake in self.intakes), self._auth.run(), self._session_topic.run()]

    async def flush(self, grace_s: float) -> None:
        """Send what waits; what Kafka has not taken after *grace_s* is refused."""
        await asyncio.gather(*(intake.flush(grace_s) for intake in self.intakes))

    async def close(self) -> None:
        """Close the connections to key servers."""
        await self._auth.close()
