"""Dependencies point one way: agents → app → models; and what is cheap to import stays so."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FORBIDDEN = {
    "agents": {"torch", "transformers", "tokenizers"},
    "app": {"agents"},
    "models": {"app", "agents", "faust", "aiokafka"},
}
"""Packages that no module of a package imports, not even within a function."""


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.partition(".")[0]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package: str) -> None:
    modules = sorted((ROOT / package).rglob("*.py"))
    assert modules
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules
        for line, name in imports(path)
        if name in FORBIDDEN[package]
    ]
    assert not wrong


@pytest.mark.parametrize("module", ["app", "app.cli", "app.settings", "app.errors", "models"])
def test_importing_is_cheap(module: str) -> None:
    heavy = {"torch", "transformers", "faust", "aiokafka", "numpy", "aiohttp"}
    script = f"import sys, {module}; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_loading_a_model_imports_what_it_needs() -> None:
    heavy = {"sklearn", "scipy", "sentence_transformers", "pandas", "jgo"}
    script = (
        "import sys\n"
        "from models.inference.registry import ModelRegistry\n"
        "ModelRegistry.load({'agnews': 'builtin'}, device='cpu', dtype='float32')\n"
        f"print(*({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
