"""bittensor's SDK, imported so that it needs no room in /dev/shm.

Its log hands records to its own thread through a multiprocessing.Queue, whose semaphores are files in /dev/shm: while
that is full, importing it fails. Within one process a thread's queue does the same.
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
    """Gives this thread a thread's queue for each `multiprocessing.Queue` it asks for."""
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
