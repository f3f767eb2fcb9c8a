"""The stock miner's way of answering, to measure against ours: upstream's flow, rebuilt from its description.

    .venv/bin/python bench/stock_miner.py constants.toml

A real bittensor Axon with the SDK's own server, thread and port, and *synchronous* handlers, which the SDK calls on its
event loop: requests wait for each other in it. Per request, as upstream's ``main`` does: write input.json below a fixed
folder, fork a one-process pool, in it gen-witness to a file, then prove in a fresh process that reads circuit, keys and
SRS again, parse the proof file, reply JSON. Nothing is verified. The folder is on the disk, as ``/tmp/subnet-2`` is.

Upstream's two steps are calls of the ``ezkl`` program. There is none on this host, so each step is a process forked
from one that has imported EZKL's Python library but never used it (forking one that has used it would hang). That is
kinder to stock than the truth: no program is loaded, no interpreter started, and nothing is printed and read back.
Also omitted, in stock's favour: upstream's debug lines and its metagraph lookup.

It reads the same constants.toml as ``omron-miner serve``, and leaves an event of the same form for each request, whose
witness_s and prove_s are EZKL's calls alone and whose total_s is the handler's time, as upstream logs it. A request for
anything but a circuit it has, or an input EZKL refuses, fails as upstream fails: words instead of a proof, files left.

No ``from __future__ import annotations``: bittensor compares the handlers' annotations with real classes.
"""

import json
import multiprocessing
import os
import pickle
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Tuple  # noqa: UP035  the SDK compares a blacklist's annotation with typing's Tuple

import bittensor
import ezkl

from omron_miner.chain.wallet import open_hotkey
from omron_miner.circuits.circuit import Circuit
from omron_miner.circuits.circuit_store import CircuitStore
from omron_miner.circuits.srs import srs_path
from omron_miner.constants import Constants, read_constants
from omron_miner.events import FailureKind, LifecycleEvent, RequestEvent, Timings, to_json
from omron_miner.proving.proof_handlers.ezkl_call import call


class QueryZkProof(bittensor.Synapse):  # type: ignore[misc]  # bittensor ships no types we can follow
    """A proof of computation, as upstream declares it."""

    query_input: dict[str, Any] | None = None
    query_output: str | None = None


class QueryForCapacities(bittensor.Synapse):  # type: ignore[misc]
    """Circuit id to compute units, as upstream declares it."""

    capacities: dict[str, int] | None = None


class StockMiner:
    """Upstream's handlers and what they need."""

    def __init__(self, constants: Constants) -> None:
        """Loads the hotkey and the circuits' metadata, and opens nothing yet. Raises OmronError."""
        self._constants = constants
        self._circuits = {one.id: one for one in CircuitStore(constants).usable()}
        # Where upstream has /tmp/subnet-2; on the disk, and one folder for all requests.
        self._sessions = constants.sessions.fallback_directory
        self._sessions.mkdir(parents=True, exist_ok=True)
        self._events = constants.log.events.open("a", encoding="utf-8", buffering=1)
        axon = constants.axon
        self.axon = bittensor.Axon(
            wallet=open_hotkey(constants.wallet),
            ip=axon.bind_ip,
            port=axon.port,
            external_ip=axon.bind_ip,  # without one the SDK asks the internet
            external_port=axon.port,
        )
        self.axon.fast_config.host = axon.bind_ip  # the SDK binds every address; a bench has no business doing that
        self.axon.attach(forward_fn=self.query_zk_proof, blacklist_fn=self.zk_proof_blacklist)
        self.axon.attach(forward_fn=self.query_for_capacities, blacklist_fn=self.capacities_blacklist)

    def start(self) -> None:
        """Listens, in the SDK's thread, and logs an event."""
        self.axon.start()
        self._events.write(to_json(LifecycleEvent(time.time(), "started")) + "\n")

    def query_zk_proof(self, synapse: QueryZkProof) -> QueryZkProof:
        """Proves on the event loop's thread; all other requests wait."""
        began = time.perf_counter()
        query = synapse.query_input or {}
        circuit, timings, output, detail = self._circuits.get(query.get("model_id", "")), Timings(), "", ""
        try:
            if circuit is None:
                raise KeyError("circuit not found")
            proof, signals, witness_s, prove_s = self._prove(circuit, list(query["public_inputs"].values()))
            output = json.dumps({"proof": proof, "public_signals": signals})
            timings = Timings(witness_s=witness_s, prove_s=prove_s)
        except Exception as error:
            output, detail = "An error occurred", f"{type(error).__name__}: {error}"
        synapse.query_output = output
        event = RequestEvent(
            time=time.time(),
            request_id=uuid.uuid4().hex,
            synapse="QueryZkProof",
            validator_hotkey=str(synapse.dendrite.hotkey),
            circuit_id=circuit.id if circuit else "",
            circuit=circuit.label if circuit else "",
            verified=False,  # stock does not look
            failure=FailureKind.PROVING_FAILED if detail else None,
            detail=" ".join(detail.split()),
            timings=Timings(time.perf_counter() - began, 0.0, 0.0, timings.witness_s, timings.prove_s),
            tries=1,
            proof_bytes=0 if detail else len(output),
        )
        self._events.write(to_json(event) + "\n")
        return synapse

    def query_for_capacities(self, synapse: QueryForCapacities) -> QueryForCapacities:
        """Upstream answers from a configuration file; this is its content."""
        synapse.capacities = dict.fromkeys(self._circuits, 400)
        return synapse

    def zk_proof_blacklist(self, synapse: QueryZkProof) -> Tuple[bool, str]:  # noqa: UP006
        """See `_refused`."""
        return self._refused(synapse)

    def capacities_blacklist(self, synapse: QueryForCapacities) -> Tuple[bool, str]:  # noqa: UP006
        """See `_refused`."""
        return self._refused(synapse)

    def _refused(self, synapse: Any) -> tuple[bool, str]:
        known = synapse.dendrite.hotkey in self._constants.network.local_validator_hotkeys
        return not known, "Allowed" if known else "Hotkey is not registered"

    def _prove(self, circuit: Circuit, rows: list[Any]) -> tuple[str, str, float, float]:
        """Proof, public signals, and the seconds of EZKL's two calls."""
        srs = srs_path(self._constants.circuits.srs_directory, circuit.settings.logrows)
        session = uuid.uuid4().hex
        names = ("input", "witness", "proof")
        paths = {name: str(self._sessions / f"{name}_{circuit.id}_{session}.json") for name in names}
        with open(paths["input"], "w", encoding="utf-8") as file:
            json.dump({"input_data": rows}, file)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            answer: tuple[str, str, float, float] = pool.apply(_proof_worker, (circuit, paths, str(srs)))
        for path in paths.values():  # upstream's end(), which an exception above skips
            if os.path.exists(path):
                os.remove(path)
        return answer


def _proof_worker(circuit: Circuit, paths: dict[str, str], srs: str) -> tuple[str, str, float, float]:
    """In the pool's process, which never uses EZKL itself."""
    witness_s = _in_a_fresh_process(
        lambda: call(
            ezkl.gen_witness,
            data=paths["input"],
            model=str(circuit.model_compiled),
            output=paths["witness"],
            vk_path=str(circuit.vk),
        )
    )
    prove_s = _in_a_fresh_process(
        lambda: call(
            ezkl.prove,
            witness=paths["witness"],
            model=str(circuit.model_compiled),
            pk_path=str(circuit.pk),
            proof_path=paths["proof"],
            srs_path=srs,
        )
    )
    with open(paths["proof"], encoding="utf-8") as file:
        proof = json.load(file)
    return json.dumps(proof), json.dumps(proof["instances"]), witness_s, prove_s


def _in_a_fresh_process(step: Callable[[], object]) -> float:
    """Runs a step in a forked process: the seconds it took there. Raises RuntimeError when it fails there.

    By hand, because a pool's processes may not have children of multiprocessing's.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            began = time.perf_counter()
            step()
            os.write(writing, pickle.dumps(time.perf_counter() - began))
            os._exit(0)  # EZKL's threads crash the interpreter during finalization
        except BaseException as error:
            traceback.print_exc()
            os.write(writing, pickle.dumps(repr(error)[:1000]))
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    if status != 0 or not said:
        reason = pickle.loads(said) if said else f"wait status {status}"  # noqa: S301  our own child wrote it
        raise RuntimeError(f"an EZKL step failed: {reason}")
    return float(pickle.loads(said))  # noqa: S301


def main() -> None:
    """Serves until it is killed."""
    miner = StockMiner(read_constants(Path(sys.argv[1])))
    miner.start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
