"""A stop that loses nothing: on SIGTERM a stage ends what it has in flight, keeps it, and stops; a rerun goes on there.

Clusters send it some time before a job's time limit, when a job is cancelled, and when its node is taken away.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, current_thread, main_thread
from typing import Any


@contextmanager
def until_stopped(then: Callable[[], Any] = lambda: None) -> Iterator[Event]:
    """An event that SIGTERM sets while the block runs, and calls `then`; afterwards the signal does what it did before.

    Only the main thread can listen; in another the event is never set.
    """
    stopped = Event()

    def stop(*_: object) -> None:
        stopped.set()
        then()

    if current_thread() is not main_thread():
        yield stopped
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGTERM, before)
