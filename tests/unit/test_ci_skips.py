"""With `CI=true` a skipped test is a failed one."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

TESTS = """
import pytest

def test_passes(): pass
def test_skips(): pytest.skip("no accelerator")
@pytest.mark.skipif(True, reason="no browser")
def test_is_marked(): pass
@pytest.mark.xfail
def test_fails_as_expected(): assert False
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST.read_text("utf-8").replace("pytest_plugins", "_plugins"))
    pytester.makepyfile(
        test_some=TESTS, test_module="import pytest; pytest.importorskip('nothing')"
    )
    return pytester


def test_a_skip_fails_in_ci(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    result = project.runpytest_inprocess("--continue-on-collection-errors")
    result.assert_outcomes(passed=1, failed=1, errors=2, xfailed=1)
    result.stdout.fnmatch_lines_random(
        ["*CI=true does not allow*no accelerator", "*no browser", "*could not import 'nothing'*"]
    )


def test_a_skip_is_a_skip_elsewhere(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    project.runpytest_inprocess().assert_outcomes(passed=1, skipped=3, xfailed=1)
