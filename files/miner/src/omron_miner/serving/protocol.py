"""The messages that validators send and receive, nothing else. Two sets: the SDK's synapses, and plain bodies.

Class names are routes and field names are JSON keys: the subnet defines both, change neither. bittensor reads the
classes' annotations at run time, so they are real objects here and not strings (no ``from __future__``).
"""

import logging
from enum import Enum
from typing import Any, ClassVar

import bittensor
from pydantic import BaseModel, ConfigDict

DEFAULT_CIRCUIT_ID = "4a87c995300f4e9ad9add9d5b800eb93bb3ecd3f9459b617f9924a211407a88c"
"""SN2's proof of weights for 256 scores: upstream's circuit for a `QueryZkProof` that names none."""


def quiet_sdk() -> None:
    """Silences the SDK's lines on stdout for each refused request and failed call: our own log has them."""
    bittensor.logging.setLevel(logging.CRITICAL)


class WireProofSystem(str, Enum):
    """Proof systems a validator may name, in any case. The installed circuits decide which are served."""

    ZKML = "ZKML"
    CIRCOM = "CIRCOM"
    JOLT = "JOLT"
    EZKL = "EZKL"

    @classmethod
    def _missing_(cls, value: object) -> "WireProofSystem | None":
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None


class _Synapse(bittensor.Synapse):  # type: ignore[misc]  # bittensor ships no types we can follow
    def get_required_fields(self) -> list[str]:
        """The SDK's answer without rebuilding the class's JSON schema for each reply, which takes some 4 ms."""
        return [name for name, field in type(self).model_fields.items() if field.is_required()]


class QueryZkProof(_Synapse):
    """A proof of computation: circuits of type ``proof_of_computation``."""

    query_input: dict[str, Any] | None = None
    """``{"public_inputs": {name: values}, "model_id": circuit id}``; without an id, `DEFAULT_CIRCUIT_ID`."""
    query_output: str | None = None
    """JSON text of ``{"proof": ..., "public_signals": ...}``, or an error message."""


class ProofOfWeightsSynapse(_Synapse):
    """A proof of weights: circuits of type ``proof_of_weights``."""

    subnet_uid: int = 2
    verification_key_hash: str
    """The circuit's id."""
    proof_system: WireProofSystem = WireProofSystem.CIRCOM
    inputs: dict[str, Any]
    proof: str
    """Empty in a request, and in a reply when there is none."""
    public_signals: str


class QueryForCapacities(_Synapse):
    """This miner's capacity: circuit id to number of concurrent proofs."""

    capacities: dict[str, int] | None = None


class Competition(_Synapse):
    """Asks for the competition circuit's files."""

    id: int
    hash: str
    """What the requesting validator read on the chain."""
    file_name: str
    file_content: str | None = None
    commitment: str | None = None
    """JSON text of where to fetch the files of which circuit; None when there is an `error`."""
    error: str | None = None


class _Body(BaseModel):
    """The body of a signed HTTP request. `name` is its route."""

    model_config = ConfigDict(protected_namespaces=())  # the subnet calls a circuit's id `model_id`


class QueryZkProofBody(_Body):
    """As `QueryZkProof`; answered with ``{"proof": ..., "public_signals": ...}``."""

    name: ClassVar = "query-zk-proof"
    model_id: str | None = None
    query_input: dict[str, Any] | None = None
    """The inputs themselves: name to values."""


class ProofOfWeightsBody(_Body):
    """As `ProofOfWeightsSynapse`; answered with ``{"inputs": ..., "proof": ..., "public_signals": ...}``."""

    name: ClassVar = "proof-of-weights"
    verification_key_hash: str
    proof_system: WireProofSystem = WireProofSystem.CIRCOM
    inputs: dict[str, Any]


class CompetitionBody(_Body):
    """Asks for the competition circuit's files; answered with the same and `commitment` or `error`."""

    name: ClassVar = "competition"
    id: int
    hash: str
    file_name: str


CAPACITIES_ROUTE = "capacities"
"""Its body says nothing; answered with circuit id to number of concurrent proofs."""
DSPERSE_ROUTE = "dsperse-proof-generation"
