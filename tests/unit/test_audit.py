"""`make audit`: what it says, and how it ends, by what pip-audit has reported."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from deploy import audit

CLEAN = {"name": "faust", "version": "1.0", "vulns": []}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}
AFFECTED = {
    "name": "urllib3",
    "version": "2.0",
    "vulns": [
        {"id": "PYSEC-1", "fix_versions": ["2.1", "3.0"], "aliases": [], "description": "a"},
        {"id": "GHSA-2", "fix_versions": [], "aliases": [], "description": "b"},
    ],
}

Reports = Callable[..., list[str]]


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Reports:
    """Has pip-audit report these packages by service, nothing of others; the services asked."""

    def reports(**packages: list[dict[str, Any]]) -> list[str]:
        asked: list[str] = []

        def pip_audit(command: list[str], **_: Any) -> None:
            options = dict(pairwise(command))
            asked.append(options["--vulnerability-service"])
            if found := packages.get(asked[-1]):
                report = json.dumps({"dependencies": found, "fixes": []})
                Path(options["--output"]).write_text(report)

        monkeypatch.setattr(subprocess, "run", pip_audit)
        return asked

    return reports


def test_nothing_known_is_well(reports: Reports, capsys: pytest.CaptureFixture[str]) -> None:
    asked = reports(pypi=[CLEAN])
    assert audit.main() == 0
    assert asked == ["pypi"]
    assert capsys.readouterr() == ("1 packages audited, 0 affected\n", "")


def test_what_is_known_is_told_and_fails(
    reports: Reports, capsys: pytest.CaptureFixture[str]
) -> None:
    reports(pypi=[CLEAN, AFFECTED])
    assert audit.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "urllib3 2.0: PYSEC-1, mended in 2.1, 3.0",
        "urllib3 2.0: GHSA-2, mended in no version yet",
        "2 packages audited, 1 affected",
    ]


@pytest.mark.parametrize("pypi", [[], [UNKNOWN], [CLEAN, UNKNOWN]])
def test_the_next_service_is_asked_for_what_the_one_before_does_not_know(
    reports: Reports, capsys: pytest.CaptureFixture[str], pypi: list[dict[str, Any]]
) -> None:
    asked = reports(pypi=pypi, osv=[CLEAN, {**CLEAN, "name": "torch"}])
    assert audit.main() == 0
    assert asked == ["pypi", "osv"]
    assert capsys.readouterr() == ("2 packages audited, 0 affected\n", "")


def test_a_package_that_nobody_knows_fails(
    reports: Reports, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = reports(pypi=[CLEAN, UNKNOWN], osv=[CLEAN, UNKNOWN])
    assert audit.main() == 1
    assert asked == ["pypi", "osv"]
    assert capsys.readouterr().err == "not audited, as nobody knows them: torch\n"


def test_what_was_not_audited_fails(reports: Reports, capsys: pytest.CaptureFixture[str]) -> None:
    asked = reports()
    assert audit.main() == 1
    assert asked == ["pypi", "osv"]
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("not audited: no advisories from pypi or osv can be reached")
