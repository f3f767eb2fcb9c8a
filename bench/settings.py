"""Every setting that is claimed to make proving faster, one by one against plain EZKL in a warm process.

    .venv/bin/python bench/settings.py [--circuit tiny demo large] [--rounds 7] [--only NAME ...] [--json FILE|-]

Each setting has its own process, which stays; all prove in turn, one at a time. Every proof with a setting has a
plain one of the same inputs, before it and after it by turns, and a setting's ratio is the median of such
pairs; plain's own row compares each plain proof with the one before. First proofs are listed
separately, not in the ratios. Reported are witness and prove together in wall-clock seconds and in CPU seconds (which
other work on the machine disturbs less), page faults, and the memory the process keeps. Everything is in the page cache
unless the setting says otherwise.

`--at-a-time N` measures instead how many proofs a minute N processes make at a time, by how they share the cores.

What came out, and what is therefore on: docs/performance.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from ctypes.util import find_library
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench_circuits import BenchCircuit, bench_circuit
from omron_miner.circuits.examples import example_inputs
from omron_miner.circuits.inputs import validate_inputs
from omron_miner.circuits.load import load_circuit
from omron_miner.circuits.srs import srs_path
from omron_miner.constants import Sessions
from omron_miner.proving.isolated import ezkl_environment
from omron_miner.proving.session_storage import SessionStorage
from omron_miner.proving.warm_up import keep_memory
from reporting import (
    Command,
    circuit_option,
    host_facts,
    json_option,
    more_circuits_argument,
    percentile,
    progress,
    say,
    say_host,
    say_table,
    write_json,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

CORES = len(os.sched_getaffinity(0))
_RAM_DISK = Path("/dev/shm")  # noqa: S108
_M_ARENA_MAX = -8  # malloc.h
_PR_SET_THP_DISABLE = 41  # linux/prctl.h
_ALLOCATORS = {"jemalloc": "libjemalloc.so.2", "mimalloc": "libmimalloc.so.2"}


@dataclass(frozen=True)
class Setting:
    """How a process differs from the plain one."""

    about: str
    environment: dict[str, str] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    """What it does to itself before it loads EZKL, or around each proof; see `_prepare` and `_prove_on_demand`."""
    library: str = ""
    """A shared library that must be installed."""


SETTINGS = {
    "plain": Setting("EZKL as it comes, all cores, session files on /dev/shm, page cache warm"),
    "keep-memory": Setting("malloc returns nothing to the kernel (warm_up.keep_memory)", steps=("keep-memory",)),
    "one-arena": Setting("malloc with one arena for all threads", steps=("one-arena",)),
    **{
        name: Setting(f"the allocator {name} instead of glibc's", {"LD_PRELOAD": file}, library=name)
        for name, file in _ALLOCATORS.items()
    },
    "huge-pages": Setting("malloc asks for transparent huge pages", {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
    "no-huge-pages": Setting("transparent huge pages off for the process", steps=("no-huge-pages",)),
    "keep-and-huge": Setting(
        "keep-memory and huge-pages", {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, ("keep-memory",)
    ),
    "unchecked-key": Setting("EZKL_KEY_FORMAT=raw-bytes-unchecked", {"EZKL_KEY_FORMAT": "raw-bytes-unchecked"}),
    "buffer-1M": Setting("EZKL_BUF_CAPACITY=1048576 (8000 as it comes)", {"EZKL_BUF_CAPACITY": "1048576"}),
    "buffer-64M": Setting("EZKL_BUF_CAPACITY=67108864", {"EZKL_BUF_CAPACITY": "67108864"}),
    "half-the-threads": Setting("RAYON_NUM_THREADS: half the cores", {"RAYON_NUM_THREADS": str(max(1, CORES // 2))}),
    "twice-the-threads": Setting("RAYON_NUM_THREADS: twice the cores", {"RAYON_NUM_THREADS": str(2 * CORES)}),
    "pinned": Setting("each thread kept on one core", steps=("pin-threads",)),
    "keys-on-ram-disk": Setting(
        "keys, model and SRS on /dev/shm instead of the page cache", steps=("keys-on-ram-disk",)
    ),
    "keys-cold": Setting("keys and SRS dropped from the page cache before each proof", steps=("drop-keys",)),
    "files-on-disk": Setting("session files on disk instead of /dev/shm", steps=("files-on-disk",)),
    "fresh-process": Setting("each proof in a process forked for it, as the stock miner does", steps=("fork",)),
}

SHARING = {
    "all cores each": {"RAYON_NUM_THREADS": str(CORES)},
    "cores shared out": {"RAYON_NUM_THREADS": "share"},
    "shared out and pinned": {"RAYON_NUM_THREADS": "share", "PIN": "yes"},
}


class Prover:
    """A process that proves on request."""

    def __init__(self, name: str, bench: BenchCircuit, place: Path, setting: Setting, cores: tuple[int, ...] = ()):
        self.name = name
        circuit, srs = bench.circuit.directory, bench.circuits.srs_directory
        if "keys-on-ram-disk" in setting.steps:
            copied = place / circuit.name
            shutil.copytree(circuit, copied)
            kept = place / "srs"
            kept.mkdir()
            shutil.copy2(srs_path(srs, bench.circuit.settings.logrows), kept)
            circuit, srs = copied, kept
        files = place / "files" if "files-on-disk" not in setting.steps else bench.circuit.directory.parent / "files"
        order = {"circuit": str(circuit), "srs": str(srs), "files": str(files), "steps": setting.steps, "cores": cores}
        environment = {**os.environ, **ezkl_environment(bench.circuits.ezkl_directory), **setting.environment}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--prover", json.dumps(order)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        self.samples: list[dict[str, float]] = []
        self._answer()

    def begin(self, seed: int) -> None:
        """Has it prove the example of `seed`."""
        assert self._process.stdin is not None  # noqa: S101  for mypy
        self._process.stdin.write(f"{seed}\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Waits for the proof."""
        self.samples.append(json.loads(self._answer()))

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None  # noqa: S101  for mypy
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException(
                f"the process with {self.name} ended: it needs more memory, or cannot be run here"
            )
        return line


@contextlib.contextmanager
def provers(bench: BenchCircuit, wanted: dict[str, tuple[Setting, tuple[int, ...]]]) -> Iterator[dict[str, Prover]]:
    """One process each, with its own folder on the RAM disk."""
    running: dict[str, Prover] = {}
    with contextlib.ExitStack() as stack:
        for name, (setting, cores) in wanted.items():
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="omron-bench-", dir=_RAM_DISK)))
            running[name] = Prover(name, bench, place, setting, cores)
            stack.callback(running[name].close)
        yield running


@click.command(cls=Command)
@circuit_option
@more_circuits_argument
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Proofs with each setting.")
@click.option("--only", multiple=True, type=click.Choice(list(SETTINGS)), help="Compare these with plain; repeatable.")
@click.option("--at-a-time", type=click.IntRange(2), help="Measure this many processes at a time instead.")
@click.option("--prover", hidden=True, help="For the bench itself: be one of its processes.")
@json_option
def main(
    circuits: tuple[str, ...],
    more_circuits: tuple[str, ...],
    rounds: int,
    only: tuple[str, ...],
    at_a_time: int | None,
    prover: str | None,
    json_file: str | None,
) -> None:
    """What each setting does to the time of a proof."""
    if prover:
        _prove_on_demand(**json.loads(prover))
        return
    facts = host_facts()
    say_host(facts)
    found: dict[str, Any] = {"bench": "settings", "host": facts, "rounds": rounds, "circuits": {}}
    for name in dict.fromkeys((*circuits, *more_circuits)) or ("tiny", "demo"):
        bench = bench_circuit(name)
        bench.warm_page_cache()
        measured = side_by_side(bench, at_a_time, rounds) if at_a_time else one_by_one(bench, only, rounds)
        found["circuits"][name] = {**bench.facts(), **measured}
    write_json(found, json_file)


def one_by_one(bench: BenchCircuit, only: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """Each setting's proofs and their ratios to the plain ones made just before or after."""
    wanted = {name: one for name, one in SETTINGS.items() if name == "plain" or not only or name in only}
    absent = [name for name, one in wanted.items() if one.library and not find_library(one.library)]
    for name in absent:
        say(f"{name} is skipped: {wanted.pop(name).library} is not installed")
    show = progress(bench.name)
    with provers(bench, {name: (one, ()) for name, one in wanted.items()}) as running:
        plain = running.pop("plain")
        paired: dict[str, list[dict[str, float]]] = {name: [] for name in running}
        for turn in range(rounds + 1):
            for number, (name, one) in enumerate(running.items()):
                show(f"round {turn} of {rounds}, {name}")
                for prover in (plain, one) if (turn + number) % 2 else (one, plain):
                    prover.begin(turn)
                    prover.end()
                paired[name].append(plain.samples[-1])
    # Plain against itself: how far apart two equal proofs are, which no ratio below can be surer than.
    compared = {"plain": _compared(plain.samples, [plain.samples[0], *plain.samples[:-1]])}
    compared |= {name: _compared(one.samples, paired[name]) for name, one in running.items()}
    results = {name: {"about": wanted[name].about, **one} for name, one in compared.items()}
    say(f"\n{bench.name}: witness + prove, {rounds} rounds")
    head = ["setting", "wall", "ratio", "(p25-p75)", "CPU", "ratio", "in kernel", "faults", "keeps", "first"]
    say_table(head, [_row(name, one) for name, one in results.items()])
    return {"settings": results}


def _compared(samples: list[dict[str, float]], plain: list[dict[str, float]]) -> dict[str, Any]:
    counted = list(zip(samples[1:], plain[1:], strict=True))
    wall = [one["wall_s"] / other["wall_s"] for one, other in counted]
    cpu = [one["cpu_s"] / other["cpu_s"] for one, other in counted]
    medians = {key: statistics.median(one[key] for one in samples[1:]) for key in samples[0]}
    return {
        "median": medians,
        "wall_ratio": {"p50": statistics.median(wall), "p25": percentile(wall, 0.25), "p75": percentile(wall, 0.75)},
        "cpu_ratio": statistics.median(cpu),
        "first_wall_s": samples[0]["wall_s"],
        "samples": samples,
        "plain_samples": plain,
    }


def _row(name: str, one: dict[str, Any]) -> list[str]:
    median, ratio = one["median"], one["wall_ratio"]
    return [
        name,
        f"{median['wall_s']:.3f} s",
        f"{ratio['p50']:.3f}",
        f"({ratio['p25']:.2f}-{ratio['p75']:.2f})",
        f"{median['cpu_s']:.2f} s",
        f"{one['cpu_ratio']:.3f}",
        f"{median['kernel_s']:.2f} s",
        f"{median['faults']:.0f}",
        f"{median['resident_bytes'] / 2**20:.0f} MiB",
        f"{one['first_wall_s']:.3f} s",
    ]


def side_by_side(bench: BenchCircuit, at_a_time: int, rounds: int) -> dict[str, Any]:
    """Proofs a minute of `at_a_time` processes that prove together, against one process that proves as many in turn."""
    base = Setting("", steps=("keep-memory",))
    results: dict[str, Any] = {}
    share = max(1, CORES // at_a_time)
    wanted: dict[str, tuple[Setting, tuple[int, ...]]] = {"one": (base, ())}
    for way, environment in SHARING.items():
        threads = str(share) if environment["RAYON_NUM_THREADS"] == "share" else environment["RAYON_NUM_THREADS"]
        for number in range(at_a_time):
            cores = tuple((number * share + core) % CORES for core in range(share)) if "PIN" in environment else ()
            wanted[f"{way} {number}"] = (Setting("", {"RAYON_NUM_THREADS": threads}, base.steps), cores)
    show = progress(bench.name)
    rates: dict[str, list[float]] = {}
    with provers(bench, wanted) as running:
        for turn in range(rounds + 1):
            for way in ("one after another", *SHARING):
                show(f"round {turn} of {rounds}, {way}")
                begun = time.perf_counter()
                if way == "one after another":
                    for number in range(at_a_time):
                        running["one"].begin(turn * at_a_time + number)
                        running["one"].end()
                else:
                    group = [running[f"{way} {number}"] for number in range(at_a_time)]
                    for number, one in enumerate(group):
                        one.begin(turn * at_a_time + number)
                    for one in group:
                        one.end()
                if turn:
                    rates.setdefault(way, []).append(60 * at_a_time / (time.perf_counter() - begun))
    one_way = rates["one after another"]
    for way, found in rates.items():
        ratios = [each / other for each, other in zip(found, one_way, strict=True)]
        results[way] = {
            "proofs_per_minute": statistics.median(found),
            "ratio": statistics.median(ratios),
            "rates": found,
        }
    say(f"\n{bench.name}: {at_a_time} at a time, {rounds} rounds")
    rows = [[way, f"{one['proofs_per_minute']:.2f}", f"{one['ratio']:.3f}"] for way, one in results.items()]
    say_table(["how", "proofs a minute", "ratio"], rows)
    return {"at_a_time": at_a_time, "sharing": results}


# --- in a separate process --------------------------------------------------------------------------------------------


def _prepare(steps: list[str], cores: list[int]) -> None:
    libc = ctypes.CDLL(None)
    if cores:
        os.sched_setaffinity(0, cores)
    if "keep-memory" in steps:
        keep_memory()
    if "one-arena" in steps:
        libc.mallopt(_M_ARENA_MAX, 1)
    if "no-huge-pages" in steps:
        libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)


def _prove_on_demand(circuit: str, srs: str, files: str, steps: list[str], cores: list[int]) -> None:
    """Reads seeds from stdin, proves each seed's example, writes what it took to stdout."""
    _prepare(steps, cores)
    from omron_miner.proving.proof_handlers.ezkl_handler import EzklHandler

    loaded, handler, srs_directory = load_circuit(Path(circuit)), EzklHandler(Path(srs)), Path(srs)
    storage = SessionStorage(Sessions(directory=Path(files), fallback_directory=Path(files), minimum_free_bytes=0))

    def prove(seed: int) -> dict[str, float]:
        rows = validate_inputs(loaded, example_inputs(loaded, seed))
        if "drop-keys" in steps:
            for path in (loaded.pk, loaded.vk, loaded.model_compiled, *srs_directory.glob("*.srs")):
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with storage.session() as session:
            handler.write_input(rows, session)
            before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            handler.witness(loaded, session)
            handler.prove(loaded, session)
            wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
        kernel = after.ru_stime - before.ru_stime
        return {
            "wall_s": wall,
            "cpu_s": after.ru_utime - before.ru_utime + kernel,
            "kernel_s": kernel,
            "faults": after.ru_minflt - before.ru_minflt,
            "resident_bytes": int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            * resource.getpagesize(),
        }

    print("ready", flush=True)
    for line in sys.stdin:
        seed = int(line) + 1
        if "fork" in steps:
            _in_a_fork(prove, seed)
            continue
        print(json.dumps(prove(seed)), flush=True)
        if "pin-threads" in steps:  # EZKL's threads exist after the first proof
            for number, thread in enumerate(sorted(Path("/proc/self/task").iterdir())):
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), {number % CORES})
    os._exit(0)  # EZKL 22 may crash the interpreter during finalization


def _in_a_fork(prove: Any, seed: int) -> None:
    """One proof in a child of this process, which has loaded EZKL and never used it; the fork is in the time."""
    begun = time.perf_counter()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        sample = prove(seed)
        sample["wall_s"] = time.perf_counter() - begun
        print(json.dumps(sample), flush=True)
        os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
