"""The code of a component of a user's own, as far as a cache key can know it."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path


def digest(component: type, name: str) -> str | None:
    """16 hex digits of what a component is made of in its own file; None of a shipped one, and where there is no file.

    It is made of the statement that registers it (its class, or a call that names it) and of all at the top of the file that
    this names, directly or through others, imports of such names among it. Comments, docstrings, other components and what
    imported files hold do not count.
    """
    module = sys.modules.get(component.__module__)
    file = getattr(module, "__file__", None)
    if file is None or component.__module__.partition(".")[0] == __package__ or not Path(file).is_file():
        return None
    body = _Bare().visit(ast.parse(Path(file).read_bytes())).body
    made = "\n".join(ast.unparse(node) for node in _needed(body, component.__qualname__, name))
    return hashlib.sha256(made.encode()).hexdigest()[:16]


class _Bare(ast.NodeTransformer):
    """Takes out what stands alone and does nothing: docstrings. Imports become one statement a name."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        return [ast.Import([alias]) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> list[ast.stmt]:
        return [ast.ImportFrom(node.module, [alias], node.level) for alias in node.names]


def _needed(body: list[ast.stmt], qualname: str, name: str) -> Iterable[ast.stmt]:
    """The statements of a file, in order, that a component needs."""
    by_name: dict[str, list[ast.stmt]] = defaultdict(list)
    for node in body:
        for bound in _bound(node):
            by_name[bound].append(node)
    todo = by_name.get(qualname) or [node for node in body if _says(node, name)] or body
    needed = list[ast.stmt]()
    while todo:
        node, *todo = todo
        if node not in needed:
            needed.append(node)
            todo += [
                other for part in ast.walk(node) if isinstance(part, ast.Name) for other in by_name.get(part.id, [])
            ]
    return [node for node in body if node in needed]


def _bound(node: ast.stmt) -> set[str]:
    """The names that a statement at the top of a file gives something to."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
        return {node.name}
    names = set[str]()
    for part in ast.walk(node):
        if isinstance(part, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            names.add(part.name)
        elif isinstance(part, ast.alias):  # of an import
            names.add(part.asname or part.name.partition(".")[0])
        elif isinstance(part, (ast.Name, ast.Attribute, ast.Subscript)) and isinstance(part.ctx, ast.Store):
            names.add(_root(part))
    return names


def _root(target: ast.expr) -> str:
    """The name that `name`, `name.part` and `name[place]` begin with."""
    while isinstance(target, (ast.Attribute, ast.Subscript)):
        target = target.value
    return target.id if isinstance(target, ast.Name) else ""


def _says(node: ast.stmt, name: str) -> bool:
    return any(isinstance(part, ast.Constant) and part.value == name for part in ast.walk(node))
