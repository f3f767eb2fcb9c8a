"""Tunes a model: rewrites it, searches run args, measures the best beside the usual ones, and builds the fastest.

All trials' proofs take turns in one run, so that a noisy machine is unfair to none. Each finished step is kept in
``measurements.jsonl`` and not made again by a second run into the same folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from omron_miner.circuit import ezkl_version
from omron_miner.circuit_build import Source, build_circuit
from omron_miner.competition_score import accuracy, is_constant
from omron_miner.errors import CircuitError, ConfigError, SrsError
from omron_miner.run_args import RunArgs
from omron_miner.tune import trial
from omron_miner.tune.altered import with_other_weights
from omron_miner.tune.compact_search import compact_search
from omron_miner.tune.cost import cost
from omron_miner.tune.graph import read_graph
from omron_miner.tune.measure import outputs_of_each, shapes_of_each
from omron_miner.tune.measured import Store, Trial, below, choose_winner, digest
from omron_miner.tune.passes import FOR_COMPACT
from omron_miner.tune.ranges import Lookups, Magnitudes
from omron_miner.tune.rewrite import rewrite
from omron_miner.tune.running import run_model
from omron_miner.tune.samples import make_feeds
from omron_miner.tune.search import (
    SAMPLED_MARGIN,
    Question,
    changed,
    cheapest_visibilities,
    choose,
    collapses,
    search,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from omron_miner.circuit_build import BuildResult
    from omron_miner.competition_score import Standing
    from omron_miner.constants import Constants
    from omron_miner.tune.graph import Graph
    from omron_miner.tune.running import Feed
    from omron_miner.tune.search import Candidate

    Say = Callable[[str], None]

PUBLIC = RunArgs(input_visibility="Public", param_visibility="Fixed")
"""What is not searched, by default: visibilities as in today's validators' circuits, the rest EZKL's own."""
_SEARCHED_SAMPLES = 8
_CALIBRATED_SAMPLES = 2
"""And the extremes: without them calibrate_settings makes tables that an honest input leaves."""
_USUAL = ("own", "augmented", "uniform", "normal")
"""Kinds of samples that are no extremes, in the order in which they are proved."""
_ALTERED = 3
"""Tensors of weights that are changed, one after another, until an answer changes."""
_TRIED_PER_BEST = 3
"""So many candidates are set up, for each wanted, until enough can be proved."""
_ASKED_PER_BEST = 16
"""So many are at hand for that: those that are not accurate enough over all samples cost no setup."""


@dataclass(frozen=True)
class Job:
    """What is asked for: the model `onnx` tuned into the folder `out`; inputs hold numbers within `low` and `high`."""

    onnx: Path
    out: Path
    data: Path | None = None
    base: RunArgs = PUBLIC
    low: float = -1.0
    high: float = 1.0
    seed: int = 0
    floor: float = 0.99
    best: int = 4
    proofs: int = 3
    limits: trial.Limits = field(default_factory=trial.Limits)
    stock: RunArgs = PUBLIC
    """The baseline that is known as stock, whose visibilities and variables become those of `base`."""
    compact: bool = False
    """Whether the compact arithmetic is tried too."""
    calibrations: tuple[str, ...] = trial.TARGETS
    """Targets of EZKL's calibrate_settings to measure beside it."""
    baselines: str = "all"
    """What candidates are measured beside. all: EZKL's own run args, one logrows less, calibrate_settings' and those
    given; given: the last alone."""
    srs: Source = field(default_factory=Source)
    goal: str = "time"
    """What the winner is best in: time, of a response, or score, a competition's."""
    reference: Standing | None = None
    """The competition's circuit to beat."""
    free_visibilities: bool = False
    """Whether the visibilities of inputs and parameters may be other than those of `base`, where that is cheaper."""
    margin: float = SAMPLED_MARGIN
    """How many times what samples reach tables hold where they are sized by samples."""


@dataclass(frozen=True)
class Tuned:
    """Everything measured, the winner and the circuit built of it; both None when nothing passes."""

    job: Job
    samples: int
    trials: list[Trial]
    winner: Trial | None
    built: BuildResult | None


def tune(job: Job, constants: Constants, say: Say = print) -> Tuned:
    """Tunes a model and builds the winner; a line per step goes to `say`.

    Raises ConfigError when the model or the data cannot be used or `out` cannot be written, CircuitError or SrsError
    when the winner cannot be built.
    """
    try:
        job.out.mkdir(parents=True, exist_ok=True)
        run = _Run(job, constants, say)
        trials = run.trials()
        run.measure(trials)
        winner, built = run.finish(trials)
        shutil.rmtree(run.work, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"cannot write below {job.out}: {error}", "check the folder and the free space") from error
    return Tuned(job, len(run.feeds), trials, winner, built)


class _Run:
    """One run of `tune`."""

    def __init__(self, job: Job, constants: Constants, say: Say) -> None:
        self._job, self._say = job, say
        circuits = constants.circuits.model_copy(update={"directory": job.out / "circuits"})
        self._constants = constants.model_copy(update={"circuits": circuits})
        self.work = job.out / "work"
        self.work.mkdir(exist_ok=True)
        self._store = Store(job.out / "measurements.jsonl")
        graph = read_graph(job.onnx)
        self.feeds = _own_first(make_feeds(graph, job.data, job.low, job.high, job.seed))
        names = [one.name for one in graph.inputs]
        self._rows = [[feed[name].ravel().tolist() for name in names] for feed in self.feeds.values()]
        self._rows_digest = digest(self._rows)
        answers = run_model(graph, list(self.feeds.values()))
        self._expected = [[float(number) for output in one for number in output.ravel()] for one in answers]
        if is_constant(self._expected):
            raise ConfigError(f"{job.onnx} answers the same to every sample", "train the model, or give other --data")
        self._graphs = {"given": graph, "rewritten": rewrite(graph, self.feeds, job.base, say=say).graph}
        self._coarse = set[tuple[object, ...]]()
        self._models = {what: self._write(what, one) for what, one in self._graphs.items()}
        self._digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in self._models.values()}
        self._magnitudes: dict[Path, Magnitudes | Lookups] = {
            self._models[what]: Magnitudes(one, self.feeds, job.low, job.high) for what, one in self._graphs.items()
        }

    def _write(self, what: str, graph: Graph) -> Path:
        path = self._job.out / f"{what}.onnx"
        path.write_bytes(graph.to_model().SerializeToString(deterministic=True))
        return path

    def trials(self) -> list[Trial]:
        """Baselines and candidates, candidates cheapest first."""
        return [*self._baselines(), *self._candidates()]

    def _baselines(self) -> list[Trial]:
        base, model = self._job.base, self._models["given"]
        same = ("input_visibility", "param_visibility", "variables")
        if self._job.baselines == "given":
            return [Trial("as given", True, model, base)]
        stock = changed(self._job.stock, **{key: getattr(base, key) for key in same})
        made, less = [Trial("stock", True, model, stock)], stock.logrows - 1
        made.append(Trial(f"stock at logrows {less}", True, model, changed(stock, logrows=less)))
        if base != stock:
            made.append(Trial("as given", True, model, base))
        return [*made, *(self._calibrated(target, Trial(f"calibrate {target}", True, model, stock))
                         for target in self._job.calibrations)]  # fmt: skip

    def _calibrated(self, target: str, one: Trial) -> Trial:
        try:
            found = self._kept(one, one.name, lambda: self._calibrate(one.run_args, target))
            one.run_args = RunArgs.model_validate_json(json.dumps(found))
        except CircuitError as error:
            one.failure = error.message
        return one

    def _calibrate(self, stock: RunArgs, target: str) -> dict[str, Any]:
        self._say(f"calibrate_settings for {target} ...")
        place = self.work / f"calibrate-{target}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        extremes = sum(not name.startswith(_USUAL) for name in self.feeds)  # they stand last
        samples = [*self._rows[:_CALIBRATED_SAMPLES], *self._rows[-extremes:]]
        rows = [[number for sample in samples for number in sample[at]] for at in range(len(samples[0]))]
        found = trial.calibrated(self._models["given"], stock, rows, target, self._job.limits, place)
        return found.model_dump(mode="json", exclude_none=True)

    def _candidates(self) -> list[Trial]:
        job, few = self._job, slice(_SEARCHED_SAMPLES)
        model = self._models["rewritten"]
        base = self._base(model)
        question = Question(model.read_bytes(), base, self._rows[few], self._expected[few],
                            self._magnitudes[model], job.floor, job.seed, margin=job.margin)  # fmt: skip
        found: list[Candidate] = []
        if too_large := self._too_large(model, base):
            self._say(f"EZKL's own arithmetic is not searched: {too_large}")
        else:
            found += search(question, self._say)
        if job.compact:
            found += self._compact(question)
        names = {kind: count(1) for kind in ("candidate", "compact")}
        return [self._candidate(one, names) for one in choose(found, _ASKED_PER_BEST * job.best, job.goal)]

    def _base(self, model: Path) -> RunArgs:
        """Where candidates have everything from that is not searched."""
        base = self._job.base
        if not self._job.free_visibilities:
            return base
        found = cheapest_visibilities(model.read_bytes(), base)
        self._say(f"fewest cells with inputs {found.input_visibility} and parameters {found.param_visibility}")
        return found

    def _compact(self, question: Question) -> list[Candidate]:
        graph = rewrite(self._graphs["given"], self.feeds, question.base, FOR_COMPACT, self._say).graph
        graphs = [(one, Magnitudes(one, self.feeds, self._job.low, self._job.high))
                  for one in (self._graphs["rewritten"], graph)]  # fmt: skip
        return compact_search(question, graphs, self._say)

    def _candidate(self, one: Candidate, names: Mapping[str, Iterator[int]]) -> Trial:
        kind = "compact" if isinstance(one.question.magnitudes, Lookups) else "candidate"
        name = hashlib.sha256(one.question.model).hexdigest()
        model = self._job.out / f"compact-{name[:12]}.onnx" if kind == "compact" else self._models["rewritten"]
        if kind == "compact":
            model.write_bytes(one.question.model)
            self._digests[model], self._magnitudes[model] = name, one.question.magnitudes
        return Trial(f"{kind} {next(names[kind])}", False, model, one.run_args, one.cost.key_mb)

    def _too_large(self, model: Path, run_args: RunArgs) -> str:
        """Why no key of a model can be made within the limit of space, at whatever logrows; empty when one may be."""
        (shape,) = shapes_of_each(model.read_bytes(), [run_args])
        if isinstance(shape, str):
            return ""  # EZKL says why when it is tried
        prices = [cost(changed(run_args, logrows=logrows), shape) for logrows in range(6, run_args.logrows + 6)]
        least = min((one.key_mb for one in prices if one), default=0.0)
        if least * 1e6 <= self._job.limits.space_bytes:
            return ""
        return f"its key would take about {least / 1000:.0f} GB"

    def measure(self, trials: list[Trial]) -> None:
        """Sets up and proves a first input of all baselines and of enough candidates, then the others' turns."""
        for one in trials:
            candidates = [other for other in trials if not other.baseline]
            alive = sum(bool(other.proofs) and not other.failure for other in candidates)
            tried = sum(other.accurate for other in candidates)
            wanted = alive < self._job.best and tried < _TRIED_PER_BEST * self._job.best
            if one.baseline or (wanted and self._arithmetic(one) not in self._coarse):
                self._take(
                    one, self._ranged, self._sized, self._answered, self._set_up, partial(self._proved, number=0)
                )
        trials[:] = [one for one in trials if one.proofs or one.failure]
        for number in range(1, self._job.proofs):
            for one in trials:
                self._take(one, partial(self._proved, number=number))

    def _take(self, one: Trial, *steps: Callable[[Trial], None]) -> None:
        """The steps of a trial, until one fails."""
        try:
            for step in steps:
                if not one.failure:
                    step(one)
        except (CircuitError, SrsError) as error:
            one.failure = error.message
            self._say(f"{one.name}: out, {one.failure}")

    def _ranged(self, one: Trial) -> None:
        verdicts = {place.verdict for place in self._magnitudes[one.model].at(one.run_args)}
        one.ranges = next((what for what in ("exceeded", "by samples") if what in verdicts), "safe")

    def _sized(self, one: Trial) -> None:
        """Spares answers and a setup that must be killed. Raises CircuitError."""
        if too_large := self._too_large(one.model, one.run_args):
            raise CircuitError(f"{too_large}, more than the limit of space")

    def _answered(self, one: Trial) -> None:
        """Its accuracy over all samples.

        Raises CircuitError when EZKL cannot prove one of them, or when a candidate is below the floor after all, which
        it was above over fewer samples.
        """
        self._say(f"{one.name}: {len(self._rows)} samples ...")
        (answers,) = self._kept(one, "answers", lambda: outputs_of_each(
            one.model.read_bytes(), [one.run_args], self._rows, lambda: None))  # fmt: skip
        if isinstance(answers, str):
            raise CircuitError(answers)
        low, high = one.run_args.lookup_range
        lost = [answer for answer in answers if isinstance(answer, str)]
        looked_up = any(place.kind == "lookup" for place in self._magnitudes[one.model].at(one.run_args))
        beyond = [answer for answer in answers if looked_up and not isinstance(answer, str)
                  and not (low <= answer["lowest"] and answer["highest"] <= high)]  # fmt: skip
        if lost or beyond:
            raise CircuitError(f"{len(lost) + len(beyond)} of {len(answers)} samples cannot be proved")
        outputs = [[number for row in answer["outputs"] for number in row] for answer in answers]
        one.accuracy = fmean(map(accuracy, outputs, self._expected))
        if not one.baseline and one.accuracy < self._job.floor:  # a baseline is told of all the same
            self._coarse.add(self._arithmetic(one))
            raise CircuitError(below(one.accuracy, self._job.floor))
        if collapses(outputs, self._expected):
            raise CircuitError("different samples have the same outputs, a circuit so coarse is refused")
        one.accurate = True

    @staticmethod
    def _arithmetic(one: Trial) -> tuple[object, ...]:
        """What its answers depend on, whatever its layout."""
        return one.model, one.run_args.input_scale, one.run_args.param_scale, one.run_args.scale_rebase_multiplier

    def _set_up(self, one: Trial) -> None:
        def make() -> dict[str, Any]:
            self._say(f"{one.name}: setup at logrows {one.run_args.logrows} ...")
            place = self.work / digest(one.model.name, one.run_args.model_dump())[:16] / "new"
            shutil.rmtree(place.parent, ignore_errors=True)
            return trial.set_up(one.model, one.run_args, place, self._constants, self._job.limits, self._job.srs)

        known = self._store.get(self._key(one, "setup"))
        gone = known and not Path(known["folder"]).is_dir()
        if gone and self._store.get(self._key(one, f"proof {self._job.proofs - 1}")) is None:
            self._store.put(self._key(one, "setup"), {}, None)  # its keys are needed once more
        one.setup = self._kept(one, "setup", make)

    def _proved(self, one: Trial, *, number: int) -> None:
        def make() -> dict[str, Any]:
            rows = self._rows[number % len(self._rows)]
            made = trial.prove(Path(one.setup["folder"]), rows, self._constants, self._job.limits)
            seconds = made["witness_s"] + made["prove_s"]
            self._say(f"{one.name}: proof {number + 1} of {self._job.proofs}: {seconds:.2f} s, verified")
            return made

        made = self._kept(one, f"proof {number}", make)
        one.proofs.append(made)
        one.unsound += [what for what in made["forged"] if what not in one.unsound]

    def _kept(self, one: Trial, step: str, make: Callable[[], Any]) -> Any:
        """What an earlier run found, or what `make` finds now and later runs need not. Failures are not kept."""
        key = self._key(one, step)
        if (known := self._store.get(key)) is not None:
            one.reused = True
            return known
        result = make()
        self._store.put(key, {"name": one.name, "step": step, "run_args": one.run_args.model_dump(mode="json")}, result)
        return result

    def _key(self, one: Trial, step: str) -> str:
        return digest(step, self._digests[one.model], one.run_args.model_dump(), ezkl_version(), self._rows_digest)

    def finish(self, trials: list[Trial]) -> tuple[Trial | None, BuildResult | None]:
        """The best that passes and that the builder takes, with its circuit. Raises CircuitError when it takes none.

        The builder proves examples of its own and refuses outputs that do not depend on these.
        """
        refused: CircuitError | None = None
        while winner := choose_winner(trials, self._job.floor, self._job.goal, self._job.reference):
            self._warn(trials)
            try:
                if self._forged(winner):
                    continue
                return winner, self._build(winner)
            except CircuitError as error:
                refused, winner.failure = error, error.message
                self._say(f"{winner.name}: out, {winner.failure}")
        self._warn(trials)
        if refused:
            raise refused
        return None, None

    def _forged(self, one: Trial) -> bool:
        """Whether an answer by other weights than the circuit's verifies."""
        verified = self._kept(one, "weights", lambda: {"verified": self._forge(one)})["verified"]
        one.weights_tried = verified is not None
        if verified:
            one.unsound.append("an answer by other weights")
        return bool(verified)

    def _forge(self, one: Trial) -> bool | None:
        self._say(f"{one.name}: an answer by other weights, which must not verify ...")
        folder, place = Path(one.setup["folder"]), self.work / "altered"
        if not folder.is_dir():  # an earlier run removed it
            folder = Path(trial.set_up(one.model, one.run_args, self.work / "again" / "new", self._constants,
                                       self._job.limits, self._job.srs)["folder"])  # fmt: skip
        altered = place / "model.onnx"
        for graph in islice(with_other_weights(read_graph(one.model)), _ALTERED):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            altered.write_bytes(graph.to_model().SerializeToString())
            verified = trial.forge(folder, altered, self._rows[0], self._constants, self._job.limits, place / "circuit")
            if verified is not None:
                return verified
        self._say(f"{one.name}: none of {_ALTERED} changed weights changes an answer, so that this could not be tried")
        return None

    def _warn(self, trials: list[Trial]) -> None:
        for one in trials:
            if one.unsound:
                self._say(f"WARNING: {one.name}: {one.failure}")

    def _build(self, winner: Trial) -> BuildResult:
        """Writes the winner's model and run args and builds its circuit by the builder that the role uses."""
        model, settings = self._job.out / "model.onnx", self._job.out / "run_args.json"
        shutil.copyfile(winner.model, model)
        content = {"run_args": winner.run_args.model_dump(mode="json", exclude_none=True)}
        settings.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        name = "".join(letter if letter.isalnum() else "_" for letter in self._job.onnx.stem)[:64] or "tuned"
        return build_circuit(name, model, settings, self._constants, self._job.srs, self._say)


def _own_first(feeds: dict[str, Feed]) -> dict[str, Feed]:
    """The operator's inputs, as given and changed, then random ones, then extremes: what stands first is proved."""

    def rank(item: tuple[str, Feed]) -> int:
        return next((at for at, kind in enumerate(_USUAL) if item[0].startswith(kind)), len(_USUAL))

    return dict(sorted(feeds.items(), key=rank))
