"""Stop without losing work: on SIGTERM a stage finishes and saves what is in progress; a rerun resumes there.

Clusters send SIGTERM shortly before a job's time limit, when a job is cancelled, and when its node is taken away.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, current_thread, main_thread
from typing import Any


@contextmanager
def until_stopped(then: Callable[[], Any] = lambda: None) -> Iterator[Event]:
    """Yield an event that SIGTERM sets while the block runs; SIGTERM also calls `then`. Restores the handler
    afterwards.

    Signals arrive only in the main thread; in other threads the event is never set.
    """
    stopped = Event()

    def stop(*_: object) -> None:
        stopped.set()
        then()

    if current_thread() is not main_thread():
        yield stopped
        return
    previous_handler = signal.signal(signal.SIGTERM, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
