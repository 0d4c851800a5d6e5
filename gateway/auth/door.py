"""Put authentication together from the settings: a door for each intake, and what keeps keys and files fresh."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from math import inf
from pathlib import Path
from typing import Any

from gateway.answers import Headers as AnswerHeaders
from gateway.auth.api_keys import SCHEME as API_KEY
from gateway.auth.api_keys import ApiKeyAuthenticator, read_keys
from gateway.auth.bearer import SCHEME as BEARER
from gateway.auth.bearer import BearerAuthenticator
from gateway.auth.credentials import credentials_of, wrong_scheme
from gateway.auth.edge import check_tls, is_production
from gateway.auth.identity import Authenticator, Headers, Identity, NoAuth, Quota, RefusalReason, Refused
from gateway.auth.key_server import KeyServer
from gateway.auth.key_set import KeySet
from gateway.auth.labs import LabsAuthenticator
from gateway.auth.quotas import Quotas
from gateway.auth.subjects import Subjects, read_subjects
from gateway.auth.tokens import ASYMMETRIC, TokenRules, Tokens
from gateway.auth.watched_file import WatchedFile
from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import SettingsError
from streams.internal import is_loopback
from streams.metrics import GatewayMetrics
from streams.settings import Settings

log = logging.getLogger(__name__)

NO_PRODUCT = "an event names no product, and these credentials are not for exactly one"


class Closed:
    """Takes nobody: authentication is off, and others than this machine reach the gateway."""

    async def identify(self, headers: Headers) -> Identity:
        """Refuse.

        Raises:
            Refused: 403, always.
        """
        raise Refused(
            403,
            "authentication is off, and this gateway listens for other machines; see docs/security.md",
            reason=RefusalReason.AUTH_OFF,
        )


class TokensAndKeys:
    """Takes tokens, API keys, or both, by the scheme of a request."""

    def __init__(self, tokens: BearerAuthenticator | None, keys: ApiKeyAuthenticator | None) -> None:
        self._tokens = tokens
        self._keys = keys

    async def identify(self, headers: Headers) -> Identity:
        """Return who sent a request.

        Raises:
            Refused: as the scheme's own authenticator says; 401 for a scheme that is not taken.
        """
        scheme, credentials = credentials_of(headers)
        if scheme == BEARER and self._tokens is not None:
            return await self._tokens.identity_of(credentials)
        if scheme == API_KEY and self._keys is not None:
            return self._keys.identity_of(credentials)
        raise wrong_scheme()


class Door:
    """What a request to one intake must pass, and the count of those that do not."""

    def __init__(
        self, intake: str, authenticator: Authenticator, quotas: Quotas, metrics: GatewayMetrics, *, needs_tls: bool
    ) -> None:
        self._intake = intake
        self._authenticator = authenticator
        self._quotas = quotas
        self._refused = metrics.requests_refused
        self._needs_tls = needs_tls

    async def identify(self, headers: Headers) -> Identity:
        """Return who sent a request with these *headers*.

        Raises:
            Refused: 401, 403 or 503.
        """
        try:
            if self._needs_tls:
                check_tls(headers)
            return await self._authenticator.identify(headers)
        except Refused as refused:
            raise self._counted(refused) from None

    def authorize(self, identity: Identity, product: str, stream: str) -> None:
        """Return when *identity* may write events of *product* to *stream*.

        Raises:
            Refused: 403; it may not.
        """
        if not identity.may(product, stream):
            raise self._counted(Refused(403, f"may not write for {product[:64]!r}" if product else NO_PRODUCT))

    def take(self, identity: Identity, *, events: int, size_bytes: int) -> AnswerHeaders:
        """Count a request in the quota of *identity* and return the headers that tell what is left.

        Raises:
            Refused: 429; it would be too much now.
        """
        try:
            return self._quotas.take(identity, events=events, size_bytes=size_bytes)
        except Refused as refused:
            raise self._counted(refused) from None

    def _counted(self, refused: Refused) -> Refused:
        self._refused.labels(self._intake, refused.reason.value).inc()
        return refused


class Auth:
    """The doors of both intakes, open or not as the settings say.

    Attributes:
        events: of `/v1/events` and `/v1/beacon`.
        analytics: of `/analytics`.
    """

    def __init__(self, settings: Settings, metrics: GatewayMetrics, *, clock: Clock = SYSTEM_CLOCK) -> None:
        """Read the files of keys and subjects.

        Raises:
            SettingsError: what is needed for an intake whose authentication is on is missing, or wrong.
        """
        self._settings = settings.auth
        self._clock = clock
        self._servers: dict[str, KeyServer] = {}
        self._key_sets: dict[str, KeySet] = {}
        self._files: list[WatchedFile[Any]] = []
        is_local = is_loopback(settings.gateway.host)
        self._warn_where_off(settings.gateway.host, is_local=is_local)
        quotas = Quotas(Quota(self._settings.quota_events_s, self._settings.quota_bytes_s), clock=clock.monotonic_s)
        nobody: Authenticator = NoAuth() if is_local or self._settings.trust_network else Closed()
        events = self._events() if self._settings.events == "on" else nobody
        analytics = self._analytics() if self._settings.analytics == "on" else nobody
        needs_tls = is_production(settings.gateway)
        self.events = Door("events", events, quotas, metrics, needs_tls=needs_tls)
        self.analytics = Door("analytics", analytics, quotas, metrics, needs_tls=needs_tls)
        if self._key_sets:
            answers = metrics.dependency_up.labels("key_server")
            answers.set_function(lambda: all(keys.is_fresh for keys in self._key_sets.values()))

    async def run(self) -> None:
        """Keep keys and files fresh until cancelled."""
        works: list[Coroutine[Any, Any, None]] = [keys.run() for keys in self._key_sets.values()]
        works += [file.run() for file in self._files]
        async with asyncio.TaskGroup() as tasks:
            for work in works:
                tasks.create_task(work)
            await asyncio.Event().wait()  # for ever, also where there is nothing to keep fresh

    async def close(self) -> None:
        """Close the connections to key servers."""
        for keys in self._key_sets.values():
            await keys.close()
        for server in self._servers.values():
            await server.close()

    def _warn_where_off(self, host: str, *, is_local: bool) -> None:
        doors = {"events": self._settings.events, "analytics": self._settings.analytics}
        intakes = [name for name, said in doors.items() if said == "off"]
        if not intakes:
            return
        if is_local:
            says = "everybody on this machine may send"
        elif self._settings.trust_network:
            says = "everybody who reaches this gateway may send"
        else:
            says = "they refuse every request; switch it on, or set auth.trust_network"
        log.warning("AUTHENTICATION IS OFF for the intakes %s: %s", ", ".join(intakes), says, extra={"host": host})

    def _events(self) -> Authenticator:
        auth = self._settings
        if not auth.events_key_set_url and not auth.keys_file:
            raise SettingsError("auth.events is on, and neither auth.events_key_set_url nor auth.keys_file says who may send")
        tokens = self._bearer() if auth.events_key_set_url else None
        keys = ApiKeyAuthenticator({}, clock=self._clock) if auth.keys_file else None
        if keys is not None:
            file = WatchedFile(Path(auth.keys_file), setting="auth.keys_file", read=read_keys, use=keys.use)
            file.load(may_miss=True)
            self._files.append(file)
        return TokensAndKeys(tokens, keys)

    def _bearer(self) -> BearerAuthenticator:
        auth = self._settings
        if not auth.events_issuer or not auth.events_audience:
            raise SettingsError(
                "auth.events_issuer or auth.events_audience is empty: a token for another service would be taken; set both"
            )
        rules = TokenRules(
            algorithms=_algorithms(auth.events_algorithms, "auth.events_algorithms"),
            issuer=auth.events_issuer,
            audience=auth.events_audience,
            leeway_s=auth.events_leeway_s,
            age_s_max=auth.events_token_age_s_max or inf,
            needs_subject=True,
        )
        keys = self._keys_of(auth.events_key_set_url, "auth.events_key_set_url")
        subjects = Subjects(organization=None, is_of_product=True)
        self._read_subjects(subjects)
        return BearerAuthenticator(Tokens(keys, rules, clock=self._clock), subjects)

    def _analytics(self) -> Authenticator:
        auth = self._settings
        if not auth.analytics_key_set_url:
            raise SettingsError("auth.analytics is on, and auth.analytics_key_set_url is empty; set it")
        rules = TokenRules(
            algorithms=_algorithms(auth.analytics_algorithms, "auth.analytics_algorithms"),
            issuer=auth.analytics_issuer or None,
            audience=auth.analytics_audience or None,
            leeway_s=auth.analytics_leeway_s,
        )
        keys = self._keys_of(auth.analytics_key_set_url, "auth.analytics_key_set_url")
        labs = LabsAuthenticator(keys, rules, organization=auth.analytics_organization, clock=self._clock)
        self._read_subjects(labs.subjects)
        return labs

    def _keys_of(self, url: str, setting: str) -> KeySet:
        """Return the keys of a server; two intakes of one server share them."""
        if url not in self._key_sets:
            self._servers[url] = KeyServer(url, setting=setting)
            self._key_sets[url] = KeySet(self._servers[url].fetch, clock=self._clock)
        return self._key_sets[url]

    def _read_subjects(self, subjects: Subjects) -> None:
        """Let the file of subjects decide, if there is one."""
        if self._settings.subjects_file:
            path = Path(self._settings.subjects_file)
            file = WatchedFile(path, setting="auth.subjects_file", read=read_subjects, use=subjects.use)
            file.load(may_miss=False)
            self._files.append(file)


def _algorithms(names: str, setting: str) -> tuple[str, ...]:
    algorithms = tuple(name.strip() for name in names.split(",") if name.strip())
    if not algorithms or not set(algorithms) <= set(ASYMMETRIC):
        raise SettingsError(f"{setting} is {names!r}; right is a list of {', '.join(ASYMMETRIC)}")
    return algorithms
