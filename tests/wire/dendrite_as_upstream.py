"""A validator's side as upstream has it, for whichever bittensor runs this file: its own synapses, the SDK's dendrite.

Run by `test_dendrite_9.py` in a separate environment; imports no module of ours. Reads JSON from stdin, and writes its
answers to the file named there, because old SDKs print to stdout and take arguments for their own.
"""

import asyncio
import json
import sys
from enum import Enum
from typing import Any

import bittensor
from bittensor.utils import networking
from bittensor_wallet import Keypair

# It asks the internet for its address, which goes into a header; and one equal to the miner's would be rewritten.
networking.get_external_ip = lambda: "192.0.2.1"


class ProofSystem(str, Enum):
    """As upstream."""

    CIRCOM = "CIRCOM"
    EZKL = "EZKL"


class QueryZkProof(bittensor.Synapse):  # type: ignore[misc]
    """As upstream."""

    query_input: dict[str, Any] | None = None
    query_output: str | None = None


class ProofOfWeightsSynapse(bittensor.Synapse):  # type: ignore[misc]
    """As upstream."""

    subnet_uid: int = 2
    verification_key_hash: str
    proof_system: ProofSystem = ProofSystem.CIRCOM
    inputs: dict[str, Any]
    proof: str
    public_signals: str


class Competition(bittensor.Synapse):  # type: ignore[misc]
    """As upstream."""

    id: int
    hash: str
    file_name: str
    file_content: str | None = None
    commitment: str | None = None
    error: str | None = None


class QueryForCapacities(bittensor.Synapse):  # type: ignore[misc]
    """As upstream."""

    capacities: dict[str, int] | None = None


SYNAPSES = {one.__name__: one for one in (QueryZkProof, ProofOfWeightsSynapse, Competition, QueryForCapacities)}


async def ask(port: int, asked: dict[str, Any]) -> dict[str, Any]:
    """One call; `asked` has by, to, synapse, fields."""
    target = bittensor.AxonInfo(version=1, ip="127.0.0.1", port=port, ip_type=4, hotkey=asked["to"], coldkey="")
    dendrite = bittensor.core.dendrite.Dendrite(Keypair.create_from_uri(asked["by"]))
    synapse = SYNAPSES[asked["synapse"]](**asked["fields"])
    size = len(json.dumps(synapse.model_dump(), default=str))
    try:
        answer = await dendrite.call(target, synapse, timeout=60.0, deserialize=False)
    finally:
        await dendrite.aclose_session()
    return {
        "status": answer.dendrite.status_code,
        "message": answer.dendrite.status_message,
        "process_time": answer.dendrite.process_time,
        "sent_bytes": size,
        "fields": {name: getattr(answer, name) for name in type(synapse).model_fields if name in asked["wanted"]},
    }


async def main() -> None:
    """Every call after the other."""
    wanted = json.load(sys.stdin)
    answers: list[dict[str, Any]] = [await ask(wanted["port"], asked) for asked in wanted["asks"]]
    with open(wanted["out"], "w") as file:
        json.dump({"version": bittensor.__version__, "answers": answers}, file)


if __name__ == "__main__":
    asyncio.run(main())
