"""C0: no fault. What fails here is wrong in the product or in the matrix itself."""

from __future__ import annotations

from tests.fault.case import Case, nothing

CASE = Case(id="C0", title="no fault", inject=nothing)
