"""Ask pip-audit what is known against the packages of the lock files: `make audit`.

Exits with 1 where something is known, and also where a package was not audited, as when the
advisories cannot be reached: that must not look as if all were well.
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
    audited: dict[str, dict[str, Any]] = {}
    unknown: set[str] = set()
    for service in SERVICES:
        packages = audit(service)
        audited |= {
            package["name"]: package
            for package in packages
            if "skip_reason" not in package and package["name"] not in audited
        }
        unknown = (unknown | {package["name"] for package in packages}) - audited.keys()
        if audited and not unknown:
            break
    if not audited:
        print(
            f"not audited: no advisories from {' or '.join(SERVICES)} can be reached from here; "
            "run make audit where the network lets pypi.org/pypi/*/json or api.osv.dev through",
            file=sys.stderr,
        )
        return 1
    affected = [package for package in audited.values() if package["vulns"]]
    for package in affected:
        for known in package["vulns"]:
            fixed = ", ".join(known["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {known['id']}, mended in {fixed}")
    print(f"{len(audited)} packages audited, {len(affected)} affected")
    if unknown:
        print(f"not audited, as nobody knows them: {', '.join(sorted(unknown))}", file=sys.stderr)
    return 1 if affected or unknown else 0


if __name__ == "__main__":
    sys.exit(main())
