"""Taking classes and functions out of a script without running the script."""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def definitions(
    script: Path, names: Sequence[str], module_name: str, package: str | None = None
) -> dict[str, Any]:
    """Runs only the parts of a script that some of its classes and functions need.

    A training script without an `if __name__ == "__main__":` would train again when imported.
    What is run instead, in the script's order: its imports, the named definitions, and every
    top-level definition and assignment whose name these use, and those these use, and so on.

    Args:
        script: The Python file.
        names: The classes and functions wanted.
        module_name: The name that the script's module gets (not `__main__`).
        package: The package that its relative imports start from.

    Returns:
        Every class and function that was defined, by name.
    """
    tree = ast.parse(script.read_text(encoding="utf-8"), str(script))
    tree.body = _needed(tree.body, set(names))
    module = types.ModuleType(module_name)
    module.__file__ = str(script)
    module.__package__ = package
    # Registered before it runs: dataclasses and pickling look their module up.
    sys.modules[module_name] = module
    exec(compile(tree, str(script), "exec"), vars(module))
    return {
        name: value
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module_name and callable(value)
    }


def _needed(body: Sequence[ast.stmt], wanted: set[str]) -> list[ast.stmt]:
    """The imports, and the statements that bind wanted names or what those in turn use."""
    kept: set[int] = {i for i, statement in enumerate(body) if _only_imports([statement])}
    grew = True
    while grew:
        grew = False
        for i, statement in enumerate(body):
            if i not in kept and wanted & set(_bound(statement)):
                kept.add(i)
                wanted |= _used(statement)
                grew = True
    return [statement for i, statement in enumerate(body) if i in kept]


def _only_imports(statements: Iterable[ast.stmt]) -> bool:
    """Whether statements do nothing but import, perhaps under `try` or `if`."""
    return all(
        isinstance(statement, ast.Import | ast.ImportFrom | ast.Pass)
        or (
            isinstance(statement, ast.Try)
            and _only_imports([*statement.body, *statement.orelse, *statement.finalbody])
        )
        for statement in statements
    )


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement defines or assigns."""
    if isinstance(statement, _Definition):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Try | ast.If):
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, _Definition):
                yield node.name


def _used(statement: ast.stmt) -> set[str]:
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
