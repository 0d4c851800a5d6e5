"""Nothing blocks an event loop: async code of gateway and views calls nothing that does, nor do the functions it calls."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.tidy.tree import ROOT, SOURCE_FOLDERS, name_of, source_files

FOLDERS = ("gateway", "views")
FILES = [path for path in source_files() if path.relative_to(ROOT).parts[0] in FOLDERS]
MODULES = {"requests", "urllib.request", "http.client", "subprocess", "kafka", "sqlite3", "shutil"}
"""All that they offer blocks: HTTP, processes, another Kafka client, disks."""
CALLS = {"open", "io.open", "os.open", "os.fdopen", "os.fsync", "time.sleep", "psycopg.connect", "psycopg.Connection.connect"}
METHODS = {"read_text", "read_bytes", "write_text", "write_bytes"}
"""Of a path, whatever it is called."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module:
    """One file: its functions by name, methods too, and what its names stand for."""

    def __init__(self, source: str, *, name: str) -> None:
        tree = ast.parse(source)
        self.name = name
        self.functions: dict[str, list[Function]] = {}
        self.stands_for: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self.functions.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.Import):
                for each in node.names:
                    root = each.name.partition(".")[0]
                    self.stands_for[each.asname or root] = each.name if each.asname else root
            elif isinstance(node, ast.ImportFrom):
                self.stands_for |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}

    def blocking(self) -> list[str]:
        """Return what async functions call that blocks, with the way there."""
        found: list[str] = []
        for functions in self.functions.values():
            for function in functions:
                if isinstance(function, ast.AsyncFunctionDef):
                    found += self.blocking_in(function, frozenset())
        return found

    def blocking_in(self, function: Function, on_the_way: frozenset[tuple[str, str]]) -> list[str]:
        """Return what a function calls that blocks; through functions of ours as deep as it goes."""
        here = (self.name, function.name)
        if here in on_the_way:
            return []
        found: list[str] = []
        for call in calls_of(function):
            target = self.dotted(call.func)
            if is_blocking(target):
                found.append(f"{function.name}, line {call.lineno}: {target}")
            for module, called in self.ours(target):
                found += [f"{function.name} > {each}" for each in module.blocking_in(called, on_the_way | {here})]
        return found

    def ours(self, target: str) -> Iterator[tuple[Module, Function]]:
        """Yield the functions of ours that a call may mean; async ones are looked at by themselves."""
        path, _, name = target.rpartition(".")
        module = self if path in ("", "self") else module_of(path)
        if module is not None:
            yield from ((module, each) for each in module.functions.get(name, []) if not runs_elsewhere(each))

    def dotted(self, node: ast.expr) -> str:
        """Return what an expression names, by its full name; `?` stands for what is no module of anybody's."""
        if isinstance(node, ast.Name):
            return self.stands_for.get(node.id, node.id)
        if not isinstance(node, ast.Attribute):
            return "?"
        value = node.value
        is_known = not isinstance(value, ast.Name) or value.id == "self" or value.id in self.stands_for
        return f"{self.dotted(value) if is_known else '?'}.{node.attr}"


def runs_elsewhere(function: Function) -> bool:
    """Say whether a call need not be followed: async functions are looked at by themselves, what is remembered runs once."""
    is_remembered = any(isinstance(each, ast.Name) and each.id == "cache" for each in function.decorator_list)
    return isinstance(function, ast.AsyncFunctionDef) or is_remembered


def calls_of(function: Function) -> Iterator[ast.Call]:
    """Yield the calls that running a function makes; not those of functions that are defined in it and may run elsewhere."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Call):
            yield node
        waiting += ast.iter_child_nodes(node)


def is_blocking(target: str) -> bool:
    in_module = any(target.startswith(f"{module}.") for module in MODULES)
    return in_module or target in CALLS or target.rpartition(".")[2] in METHODS


@cache
def module_of(dotted: str) -> Module | None:
    """Return a module of what ships by its full name; None where there is none."""
    if dotted.partition(".")[0] not in SOURCE_FOLDERS:
        return None
    path = ROOT / f"{dotted.replace('.', '/')}.py"
    return Module(path.read_text(encoding="utf-8"), name=dotted) if path.is_file() else None


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_async_code_blocks(path: Path) -> None:
    """P22: one blocked loop makes every request late; what must block runs in a thread."""
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    module = module_of(dotted)
    assert module is not None
    assert module.blocking() == []


@pytest.mark.parametrize(
    ("imports", "body"),
    [
        ("import time", "time.sleep(1)"),
        ("from time import sleep as rest", "rest(1)"),
        ("import requests", "requests.get('x')"),
        ("import psycopg", "await f(psycopg.connect('x'))"),
        ("from psycopg import Connection", "Connection.connect('x')"),
        ("import urllib.request", "urllib.request.urlopen('x')"),
        ("", "with open('x') as file: pass"),
        ("", "Path('x').read_text()"),
        ("def inner(): open('x')", "inner()"),
        ("from sinks.erase import main", "main([])"),
    ],
)
def test_what_blocks_is_found(imports: str, body: str) -> None:
    """A lint that finds nothing anywhere would pass too."""
    assert len(Module(f"{imports}\nasync def f(x):\n    {body}", name="planted").blocking()) >= 1


@pytest.mark.parametrize("body", ["await asyncio.to_thread(open, 'x')", "await asyncio.to_thread(lambda: open('x'))", "g()"])
def test_what_runs_in_a_thread_is_let_pass(body: str) -> None:
    """That is where it belongs."""
    assert Module(f"import asyncio\nasync def f():\n    {body}\ndef h():\n    open('x')", name="planted").blocking() == []
