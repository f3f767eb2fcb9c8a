"""Runs a circom 2 circuit's witness program, ``circuit.wasm``: inputs in, the value of every wire out.

The program passes one value per call, which costs microseconds from Python; `_LOOPS`, a small module linked to it,
makes these calls in nanoseconds. Each witness gets its own instance, as in snarkjs, because the program keeps its
inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import wasmtime

from omron_miner.circuits.circom import FIELD_MODULUS
from omron_miner.proving.proof_handlers.base import ProofError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

VALUE_BYTES = 32
"""Of a field element, little-endian, in the program's shared memory and in a witness file."""
_PAGE_BYTES = 65_536
_VERSION = 2
"""Circom's major version: programs of version 1 take their inputs differently."""
_LONGEST_MESSAGE = 1000
_LOOPS = """
(module
  (import "circuit" "memory" (memory $circuit 0))
  (import "circuit" "setInputSignal" (func $set (param i32 i32 i32)))
  (import "circuit" "getWitness" (func $get (param i32)))
  (memory $own (export "memory") 1)
  (func (export "set") (param $high i32) (param $low i32) (param $count i32) (param $shared i32)
    (local $i i32)
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $i) (local.get $count)))
      (memory.copy $circuit $own (local.get $shared) (i32.shl (local.get $i) (i32.const 5)) (i32.const 32))
      (call $set (local.get $high) (local.get $low) (local.get $i))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $next))))
  (func (export "get") (param $count i32) (param $shared i32)
    (local $i i32)
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $i) (local.get $count)))
      (call $get (local.get $i))
      (memory.copy $own $circuit (i32.shl (local.get $i) (i32.const 5)) (local.get $shared) (i32.const 32))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $next)))))
"""
_REASONS = {
    1: "signal not found",
    2: "too many signals set",
    3: "signal already set",
    4: "an assertion failed",
    5: "not enough memory",
    6: "input signal array access exceeds the size",
}
"""What the program's exception codes mean (circom 2's own witness calculator)."""


class WitnessProgram:
    """A compiled witness program. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Compiles it, which takes seconds for a large one. Raises ProofError."""
        self._engine = wasmtime.Engine()
        try:
            self._module = wasmtime.Module.from_file(self._engine, str(path))
            self._loops = wasmtime.Module(self._engine, _LOOPS)
        except wasmtime.WasmtimeError as error:
            raise ProofError(f"{path.name} does not compile: {_line(error)}") from error

    def run(self, inputs: Mapping[str, list[int]]) -> bytes:
        """The values of all wires, `VALUE_BYTES` each; the first is 1. Raises ProofError for unsuitable inputs."""
        try:
            return _Run(self._engine, self._module, self._loops).witness(inputs)
        except (wasmtime.WasmtimeError, wasmtime.Trap, KeyError) as error:
            raise ProofError(f"the witness program fails: {_line(error)}") from error


class _Run:
    """One instance of the program, and its messages."""

    def __init__(self, engine: wasmtime.Engine, module: wasmtime.Module, loops: wasmtime.Module) -> None:
        self._store = wasmtime.Store(engine)
        self._said: list[str] = []
        linker = wasmtime.Linker(engine)
        number = wasmtime.FuncType([wasmtime.ValType.i32()], [])
        nothing = wasmtime.FuncType([], [])
        linker.define_func("runtime", "exceptionHandler", number, self._fail)
        linker.define_func("runtime", "printErrorMessage", nothing, self._hear)
        linker.define_func("runtime", "writeBufferMessage", nothing, self._pass_over)
        linker.define_func("runtime", "showSharedRWMemory", nothing, lambda: None)
        linker.define_unknown_imports_as_traps(module)
        self._circuit: Any = linker.instantiate(self._store, module).exports(self._store)
        names = ("memory", "setInputSignal", "getWitness")
        self._loops: Any = wasmtime.Instance(self._store, loops, [self._circuit[name] for name in names]).exports(
            self._store
        )

    def witness(self, inputs: Mapping[str, list[int]]) -> bytes:
        """See `WitnessProgram.run`."""
        if (version := self._call("getVersion")) != _VERSION:
            raise ProofError(f"the witness program is of circom {version}, only {_VERSION} is supported")
        self._call("init", 0)
        shared = self._call("getSharedRWMemoryStart")
        for name, values in inputs.items():
            self._set(name, values, shared)
        given, wanted = sum(map(len, inputs.values())), self._call("getInputSize")
        if given != wanted:
            raise ProofError(f"the circuit takes {wanted} input values, the request has {given}")
        count = self._call("getWitnessSize")
        self._make_room(count)
        self._loops["get"](self._store, count, shared)
        return bytes(self._loops["memory"].read(self._store, 0, count * VALUE_BYTES))

    def _set(self, name: str, values: list[int], shared: int) -> None:
        high, low = _hash(name)
        size = self._call("getInputSignalSize", high, low)
        if size < 1:
            raise ProofError(f"the circuit has no input {name[:40]!r}")
        if size != len(values):
            raise ProofError(f"input {name[:40]!r} has {len(values)} value(s), the circuit takes {size}")
        self._make_room(len(values))
        content = b"".join((value % FIELD_MODULUS).to_bytes(VALUE_BYTES, "little") for value in values)
        self._loops["memory"].write(self._store, content, 0)
        self._loops["set"](self._store, high, low, len(values), shared)

    def _make_room(self, values: int) -> None:
        memory = self._loops["memory"]
        missing = values * VALUE_BYTES - memory.data_len(self._store)
        if missing > 0:
            memory.grow(self._store, -(-missing // _PAGE_BYTES))

    def _call(self, name: str, *arguments: int) -> int:
        return self._circuit[name](self._store, *arguments)  # type: ignore[no-any-return]

    def _message(self) -> str:
        letters: list[str] = []
        while character := self._call("getMessageChar"):
            letters.append(chr(character & 0xFF))
        return "".join(letters)

    def _pass_over(self) -> None:
        """Drops the output of the circuit's log(), so that the next message starts empty."""
        self._message()

    def _hear(self) -> None:
        self._said.append(self._message())

    def _fail(self, code: int) -> None:
        said = " ".join(" ".join(self._said).split())[:_LONGEST_MESSAGE]
        raise ProofError(f"{_REASONS.get(code, f'error {code}')}{f': {said}' if said else ''}")


def witness_file(values: bytes) -> bytes:
    """The ``.wtns`` file of a witness: iden3's binary format, version 2, with the field and the values."""
    modulus = FIELD_MODULUS.to_bytes(VALUE_BYTES, "little")
    count = len(values) // VALUE_BYTES
    header = VALUE_BYTES.to_bytes(4, "little") + modulus + count.to_bytes(4, "little")
    return b"wtns" + (2).to_bytes(4, "little") + (2).to_bytes(4, "little") + _section(1, header) + _section(2, values)


def _section(number: int, content: bytes) -> bytes:
    return number.to_bytes(4, "little") + len(content).to_bytes(8, "little") + content


def _hash(name: str) -> tuple[int, int]:
    """FNV-1a of an input's name, 64 bits, by which the program knows it: the upper and the lower half, signed."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return _signed(value >> 32), _signed(value & 0xFFFFFFFF)


def _signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_LONGEST_MESSAGE] or type(error).__name__
