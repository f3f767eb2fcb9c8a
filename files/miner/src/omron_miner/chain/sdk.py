"""Imports bittensor's SDK without needing space in /dev/shm.

Its logger passes records to its thread through a multiprocessing.Queue, whose semaphores are files in /dev/shm: while
that is full, importing it fails. Within one process a `queue.Queue` does the same.
"""

from __future__ import annotations

import multiprocessing
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


with thread_queues():
    import bittensor

__all__ = ["bittensor"]
