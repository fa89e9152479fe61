"""Ask pip-audit what is known against the packages of the lock files: `make audit`.

Exits with 1 where something is known, and also where the advisories cannot be reached: nothing
has been audited then, which must not look as if all were well.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PIP_AUDIT = "pip-audit==2.10.1"
LOCKS = ("requirements.lock", "requirements-torch.lock", "requirements-dev.lock")
SERVICES = ("pypi", "osv")
"""Where advisories come from; the next one is asked for what the one before does not know."""


def audit(service: str) -> list[dict[str, Any]]:
    """The packages of all locks, each with its `vulns`, or `skip_reason` where it is not known."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        # Not in our environment: what audits it should not be a part of it.
        command = [sys.executable, "-m", "uv", "tool", "run", PIP_AUDIT, "--disable-pip"]
        command += ["--require-hashes", "--vulnerability-service", service, "--progress-spinner"]
        command += ["off", "--format", "json", "--output", report.name]
        for lock in LOCKS:
            command += ["--requirement", lock]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        try:
            packages: list[dict[str, Any]] = json.loads(Path(report.name).read_bytes())[
                "dependencies"
            ]
        except (ValueError, KeyError):
            return []
        return packages


def main() -> int:
    """Audit, and say what was found."""
    audited: list[dict[str, Any]] = []
    for service in SERVICES:
        audited = [package for package in audit(service) if "skip_reason" not in package]
        if audited:
            break
    else:
        print(
            f"not audited: no advisories from {' or '.join(SERVICES)} can be reached from here; "
            "run make audit where the network lets pypi.org/pypi/*/json or api.osv.dev through",
            file=sys.stderr,
        )
        return 1
    affected = [package for package in audited if package["vulns"]]
    for package in affected:
        for known in package["vulns"]:
            fixed = ", ".join(known["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {known['id']}, mended in {fixed}")
    print(f"{len(audited)} packages audited ({service}), {len(affected)} affected")
    return 1 if affected else 0


if __name__ == "__main__":
    sys.exit(main())
