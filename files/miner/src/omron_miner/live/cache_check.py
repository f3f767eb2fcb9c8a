"""Checks the circuit cache of upstream's `sn2-miner`: which slices cannot be proved, and where to fix that."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from omron_miner.circuits.circuit import circuit_folder
from omron_miner.files import sha256 as file_sha256
from omron_miner.live import bundle
from omron_miner.live.cache import (
    BUNDLE,
    COMPONENTS,
    METADATA,
    PAYLOAD,
    READY,
    SLICES,
    STAMP,
    CacheError,
    circuit_ids,
    read_record,
    stamp_text,
)
from omron_miner.live.repository import is_name

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """A slice that cannot be proved, or is not reliable."""

    circuit: str
    slice: str
    component: str
    text: str
    published: bool
    """The repository published it incomplete: it cannot be fixed here."""


@dataclass
class CheckReport:
    """The result of a check; `ok` if there are circuits and nothing must be fixed here."""

    cache: str
    ok: bool = True
    circuits: int = 0
    slices: int = 0
    provable: int = 0
    unready: list[str] = field(default_factory=list)
    """Circuits that the miner skips, and why."""
    findings: list[Finding] = field(default_factory=list)


def check(cache: Path, hashes: bool = False) -> CheckReport:
    """Checks every slice of the cache; with `hashes` also reads every file whose SHA-256 is known.

    Raises CacheError when there is no cache.
    """
    cache = cache.expanduser()
    try:
        os.listdir(cache)
    except OSError as error:
        raise CacheError(
            f"cannot read {cache}: {error.strerror}", "run omron-miner live circuits sync, or check --cache"
        ) from error
    record, report = read_record(cache), CheckReport(str(cache))
    for circuit in circuit_ids(cache):
        folder = circuit_folder(cache, circuit)
        report.circuits += 1
        reason = _unready(folder)
        if reason:
            report.unready.append(f"{circuit}: {reason}")
        for name, sha256 in _listed(folder).items():
            problems = _slice(folder / SLICES / name, sha256, record, hashes)
            report.slices += 1
            report.provable += not problems
            report.findings += [Finding(circuit, name, sha256, one.text, one.published) for one in problems]
    report.ok = report.circuits > 0 and not report.unready and all(one.published for one in report.findings)
    return report


def _unready(folder: Path) -> str | None:
    if not (folder / READY).exists():
        return f"{READY} is missing: its download did not finish"
    try:
        if isinstance(json.loads((folder / METADATA).read_bytes()), dict):
            return None
    except (OSError, ValueError):
        pass
    return f"{METADATA} is missing or damaged"


def _listed(folder: Path) -> dict[str, str]:
    """Slices of a circuit and their components: as listed, and any other folder with a stamp."""
    found = {one.parent.name: stamp_text(one) for one in (folder / SLICES).glob(f"*/{STAMP}")}
    try:
        rows = json.loads((folder / COMPONENTS).read_bytes())
        listed = {name: sha for name, sha in rows if isinstance(name, str) and isinstance(sha, str)}
    except (OSError, ValueError, TypeError):
        listed = {}
    return found | {name: sha for name, sha in listed.items() if is_name(name)}


def _slice(folder: Path, sha256: str, record: dict[str, dict[str, str]], hashes: bool) -> list[bundle.Problem]:
    stamp = stamp_text(folder / STAMP)
    if stamp != sha256:
        text = f"it is of component {stamp:.16}…" if stamp else "its folder or its stamp is missing"
        return [bundle.Problem(text, published=False)]
    files = record.get(sha256)
    problems = bundle.examine(folder, frozenset(files) if files is not None else None)
    if hashes and not problems:
        known = {folder / BUNDLE / name: sha for name, sha in (files or {}).items() if sha}
        known |= {one.with_suffix(""): stamp_text(one) for one in (folder / PAYLOAD).glob("*.sha")}
        problems = [
            bundle.Problem(f"{path.name} has changed since its download", published=False)
            for path, sha in known.items()
            if file_sha256(path) != sha
        ]
    return problems


def to_json(report: CheckReport) -> str:
    """A report as JSON."""
    return json.dumps(asdict(report))


def to_text(report: CheckReport) -> str:
    """A check as text: slices that cannot be proved, by component."""
    if not report.circuits:
        return f"no model_<id> folder in {report.cache}: run omron-miner live circuits sync, or check --cache"
    lines = [f"NOT READY  {one}" for one in report.unready]
    by_component: dict[tuple[str, str, bool], list[Finding]] = {}
    for one in report.findings:
        by_component.setdefault((one.component, one.text, one.published), []).append(one)
    for (component, text, published), findings in by_component.items():
        whose = "incomplete upstream" if published else "fix with: omron-miner live circuits sync"
        lines.append(f"component {component}: {text} ({whose})")
        lines += [f"  {one.circuit[:16]}… {one.slice}" for one in findings]
    lines.append(
        f"{report.circuits} circuits, {report.provable} of {report.slices} slices can be proved, as far as checked"
    )
    return "\n".join(lines)
