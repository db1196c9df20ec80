"""Refuse dependencies with a licence or a known vulnerability that users of entrenar should not inherit.

The licences of everything that the core install pulls in are read from the installed packages' own metadata. Known
vulnerabilities come from pip-audit, which asks an online database; where that cannot be reached the check fails and
says so, and ``DENY_OFFLINE=1`` accepts the licence check alone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

ALLOWED = re.compile(
    r"\b(MIT|0?BSD|Apache|ISC|PSF|Python Software Foundation|MPL|Mozilla|Unlicense|Zlib|HPND|CC0)\b",
    re.IGNORECASE,
)


def core_distributions(root: str = "entrenar") -> Iterator[metadata.Distribution]:
    """The distributions that installing `root` without extras brings in, `root` left out."""
    seen = {root}
    queue = [root]
    while queue:
        for line in metadata.distribution(queue.pop()).requires or ():
            requirement = Requirement(line)
            name = re.sub(r"[-_.]+", "-", requirement.name).lower()
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and name not in seen:
                seen.add(name)
                queue.append(name)
                yield metadata.distribution(name)


def licence_of(distribution: metadata.Distribution) -> str:
    """What a distribution says of its licence: expression, else classifiers, else the first line of the free text."""
    fields = distribution.metadata
    if expression := fields.get("License-Expression"):
        return expression
    classifiers = [line for line in fields.get_all("Classifier") or [] if line.startswith("License ::")]
    named = [line.rsplit(" :: ", 1)[1] for line in classifiers if line != "License :: OSI Approved"]
    return "; ".join(named) or (fields.get("License") or "").strip().split("\n", 1)[0]


def check_licences() -> int:
    """Print a refusal for each licence that is not permissive (or MPL); return how many there are."""
    distributions = sorted(core_distributions(), key=lambda distribution: distribution.metadata["Name"].lower())
    refused = [d for d in distributions if not ALLOWED.search(licence_of(d))]
    for distribution in refused:
        print(f"licence refused: {distribution.metadata['Name']}: {licence_of(distribution) or 'none stated'}")
    print(f"licences: {len(distributions)} distributions, {len(refused)} refused")
    return len(refused)


def check_vulnerabilities() -> int:
    """Ask pip-audit about what the core install brings in; return how many reasons there are to refuse it."""
    pins = "\n".join(f"{d.metadata['Name']}=={d.version}" for d in core_distributions())
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "-f", "json", "-r", "/dev/stdin"]
    command = [sys.executable, "-m", "pip_audit", *options]
    result = subprocess.run(command, input=pins, capture_output=True, text=True, check=False)
    answers = json.loads(result.stdout)["dependencies"] if result.stdout.startswith("{") else []
    audited = [answer for answer in answers if "vulns" in answer]
    found = [(answer, vulnerability) for answer in audited for vulnerability in answer["vulns"]]
    for answer, vulnerability in found:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"vulnerable: {answer['name']} {answer['version']}: {vulnerability['id']}, fixed in {fixed}")
    not_checked = len(pins.splitlines()) - len(audited)
    print(f"vulnerabilities: {len(audited)} distributions checked, {not_checked} not, {len(found)} found")
    return len(found) + (not_checked and _refuse_unchecked(result.stderr))


def _refuse_unchecked(complaint: str) -> int:
    if os.environ.get("DENY_OFFLINE") == "1":
        print("DENY_OFFLINE=1: what could not be checked is accepted")
        return 0
    last_words = complaint.strip().splitlines()[-1:]
    print("the vulnerability database does not answer for them from here:", *last_words)
    print("run again with a connection to pypi.org, or with DENY_OFFLINE=1 to accept what was checked")
    return 1


if __name__ == "__main__":
    refusals = check_licences()
    sys.exit(1 if check_vulnerabilities() or refusals else 0)
