"""The one error the commands turn into a message and an exit code.

Anything a person can cause or mend (bad input, a missing file, a wrong version, a full disk) is raised as
`OmronError` or a subclass with what happened and what to do; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import ValidationError


class OmronError(Exception):
    """What is wrong, and in `hint` the next thing to try.

    `exit_code` is what the command line ends with: 1 failure, 2 invalid arguments or configuration.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def first_line(error: BaseException) -> str:
    """What an error of any kind says, on one line; its kind when it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def problems_in_words(error: ValidationError) -> str:
    """What pydantic found wrong: each key with what is wrong with it."""
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}" for one in error.errors())


class ConfigError(OmronError):
    """constants.toml is missing, unreadable or holds an unknown or ill-typed key."""

    exit_code = 2


class CircuitError(OmronError):
    """A circuit's folder is incomplete, inconsistent or of another EZKL version."""


def refuse_circuit(directory: Path, message: str, hint: str, cause: BaseException | None = None) -> NoReturn:
    """Raises CircuitError that names the circuit's folder."""
    raise CircuitError(f"circuit {directory.name}: {message}", hint) from cause


class InputError(OmronError):
    """A request's input is not what its circuit takes (shape, NaN, strings)."""


class WalletError(OmronError):
    """No usable hotkey, or a coldkey where none may be."""


class SrsError(OmronError):
    """A structured reference string is missing, too small, of a wrong checksum, or a test one on a real network."""
