"""The error that commands turn into a message and an exit code.

Anything an operator can cause or fix (bad input, a missing file, a wrong version, a full disk) is raised as
`OmronError` or a subclass with a description and a hint; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import ValidationError


_LONGEST = 200


class OmronError(Exception):
    """A description of the problem, and in `hint` the next thing to try.

    `exit_code` is the exit code of the command: 1 failure, 2 invalid arguments or configuration.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def first_line(error: BaseException) -> str:
    """The message of any exception, on one line; its class name when it is empty."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def kind_and_message(error: BaseException) -> str:
    """Class and message of an exception about a file's content, on one line of at most 200 characters.

    Not `repr`: that of a UnicodeDecodeError holds the whole file.
    """
    return f"{type(error).__name__}: {first_line(error)}"[:_LONGEST]


def problems_in_words(error: ValidationError) -> str:
    """pydantic's errors as text: each key with its problem."""
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}" for one in error.errors())


class ConfigError(OmronError):
    """constants.toml is missing, unreadable or contains an unknown or ill-typed key."""

    exit_code = 2


class CircuitError(OmronError):
    """A circuit's folder is incomplete, inconsistent or of another EZKL version."""


def refuse_circuit(directory: Path, message: str, hint: str, cause: BaseException | None = None) -> NoReturn:
    """Raises CircuitError that names the circuit's folder."""
    raise CircuitError(f"circuit {directory.name}: {message}", hint) from cause


class InputError(OmronError):
    """A request's input does not match its circuit (shape, NaN, strings)."""


class WalletError(OmronError):
    """No usable hotkey, or a coldkey where none is allowed."""


class SrsError(OmronError):
    """A structured reference string is missing, too small, has a wrong checksum, or is a test one on a real network."""
