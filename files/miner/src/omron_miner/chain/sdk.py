"""bittensor's SDK, imported so that it needs no room in /dev/shm.

Its log hands records to its own thread through a multiprocessing.Queue, whose semaphores are files in /dev/shm: while
that is full, importing it fails. Within one process a thread's queue does the same.
"""

from __future__ import annotations

import multiprocessing
import queue
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def _thread_queues() -> Iterator[None]:
    modules: Any = multiprocessing
    kept, modules.Queue = modules.Queue, lambda maxsize=0: queue.Queue(max(0, maxsize))
    try:
        yield
    finally:
        modules.Queue = kept


with _thread_queues():
    import bittensor

__all__ = ["bittensor"]
