"""Identify the products of Penn Labs as their Platform attests them: RS256 by its key set, 60 s leeway.

Refusals have the words of the original service, which clients may look at. It took refresh tokens and tokens without an end;
those are refused here, and subjects of other organizations too.
"""

from __future__ import annotations

from dataclasses import replace

from gateway.auth.bearer import BearerAuthenticator
from gateway.auth.key_set import KeySet
from gateway.auth.subjects import Subjects
from gateway.auth.tokens import TokenRules, Tokens
from streams.clock import SYSTEM_CLOCK, Clock


class LabsAuthenticator(BearerAuthenticator):
    """Takes access tokens of the Platform, and says so of each: `use` must be there.

    One back end writes for several products (Penn Courses for four), so that a subject may write for all, unless a file of
    subjects says otherwise.
    """

    def __init__(self, keys: KeySet, rules: TokenRules, *, organization: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self.subjects = Subjects(organization=organization, is_of_product=False)
        super().__init__(Tokens(keys, replace(rules, needs_use=True), clock=clock), self.subjects)
