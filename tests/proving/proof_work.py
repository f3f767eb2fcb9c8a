"""EZKL work of the proving tests, in a separate process: pytest must survive whatever EZKL does."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omron_miner.circuits.examples import example_inputs
from omron_miner.circuits.inputs import validate_inputs
from omron_miner.proving.proof_handlers import VerificationError, get_handler
from omron_miner.proving.session_storage import Session, SessionStorage
from omron_miner.proving.verified_model_session import ProofResult, prove_verified

if TYPE_CHECKING:
    from omron_miner.circuits.circuit import Circuit
    from omron_miner.circuits.inputs import Inputs
    from omron_miner.constants import Constants
    from omron_miner.proving.proof_handlers import Proof


def prove(circuit: Circuit, inputs: dict[str, Any], constants: Constants, **more: Any) -> ProofResult:
    rows, storage = validate_inputs(circuit, inputs), SessionStorage(constants.sessions)
    return prove_verified(circuit, rows, storage, constants.circuits.srs_directory, **more)


def prove_with_failing_verifications(circuit: Circuit, constants: Constants, failures: int) -> ProofResult:
    """As `prove`, but the first `failures` verifications fail."""
    real = get_handler(circuit.proof_system, constants.circuits.srs_directory)
    left = [failures]

    class Handler:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def verify(self, circuit: Circuit, rows: Inputs, proof: str, session: Session, signals: str = "") -> Proof:
            left[0] -= 1
            if left[0] >= 0:
                raise VerificationError("said to fail")
            return real.verify(circuit, rows, proof, session, signals)

    return prove(circuit, example_inputs(circuit), constants, handler_of=lambda *_: Handler())


def felts(circuit: Circuit, inputs: dict[str, Any]) -> list[str]:
    """The instances a validator makes of its request, as upstream's ezkl_handler does."""
    import ezkl

    settings = circuit.settings.whole
    return [
        ezkl.float_to_felt(x, settings["model_input_scales"][index], getattr(ezkl.PyInputType, kind))
        for index, (row, kind) in enumerate(zip(inputs.values(), settings["input_types"], strict=True))
        for x in row
    ]


def demo_outputs(model: str, settings_file: str, images: list[list[float]], directory: str) -> list[list[float]]:
    """Outputs of the compiled model in its own arithmetic for each image: compiled and witnessed, no keys, no proof."""
    import ezkl

    from omron_miner.circuits.run_args import read_run_args
    from omron_miner.proving.proof_handlers.ezkl_call import call, native_run_args

    place = Path(directory)
    settings, compiled, witness, data = (str(place / name) for name in ("s.json", "m.compiled", "w.json", "i.json"))
    native = native_run_args(read_run_args(Path(settings_file)))
    call(ezkl.gen_settings, model=model, output=settings, py_run_args=native)
    call(ezkl.compile_circuit, model=model, compiled_circuit=compiled, settings_path=settings)
    scales = json.loads(Path(settings).read_text())["model_output_scales"]
    answers = []
    for image in images:
        Path(data).write_text(json.dumps({"input_data": [image]}))
        rows = call(ezkl.gen_witness, data=data, model=compiled, output=witness)["outputs"]
        outputs = ([ezkl.felt_to_float(felt, scale) for felt in row] for row, scale in zip(rows, scales, strict=True))
        answers.append(list(chain.from_iterable(outputs)))
    return answers
