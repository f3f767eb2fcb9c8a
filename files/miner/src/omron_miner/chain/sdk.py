"""Imports bittensor's SDK without needing space in /dev/shm or a home folder.

Its logger passes records to its thread through a multiprocessing.Queue, whose semaphores are files in /dev/shm: while
that is full, importing it fails. Within one process a `queue.Queue` does the same. It also makes folders for wallets
and logs below HOME, which we do not use, unless READ_ONLY is 1.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def thread_queues() -> Iterator[None]:
    """Replaces each `multiprocessing.Queue` that this thread creates with a `queue.Queue`."""
    modules: Any = multiprocessing
    kept, importer = modules.Queue, threading.get_ident()

    def make(maxsize: int = 0) -> Any:
        return queue.Queue(max(0, maxsize)) if threading.get_ident() == importer else kept(maxsize)

    modules.Queue = make
    try:
        yield
    finally:
        modules.Queue = kept


@contextmanager
def _no_home_folders() -> Iterator[None]:
    kept = os.environ.get("READ_ONLY")
    os.environ["READ_ONLY"] = "1"
    try:
        yield
    finally:
        del os.environ["READ_ONLY"]
        if kept is not None:
            os.environ["READ_ONLY"] = kept


with thread_queues(), _no_home_folders():
    import bittensor

__all__ = ["bittensor"]
