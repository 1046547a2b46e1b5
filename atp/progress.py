"""Progress of long work, as lines that read well on a terminal and in a log."""

import logging
import time

log = logging.getLogger("atp")

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Counts finished units of work and says, every few seconds, how far it is and when it ends.

    skipped units (resumed from an earlier run) count as done but not towards the speed.
    """

    def __init__(self, label: str, total: int, unit: str, skipped: int = 0):
        self.label, self.total, self.unit = label, total, unit
        self.done = self.skipped = skipped
        self.steps = 0
        self.note = ""
        self.started = self.said = time.monotonic()
        if skipped:
            log.info("%s: goes on after %d of %d %s", label, skipped, total, unit)

    def advance(self, done: int, steps: int = 0, last: bool = False) -> None:
        """`done` more units, which took `steps` decisions or steps."""
        self.done += done
        self.steps += steps
        now = time.monotonic()
        if now - self.said < SECONDS_BETWEEN_LINES and not last:
            return
        self.said = now
        seconds = max(now - self.started, 1e-9)
        left = (self.total - self.done) * seconds / max(self.done - self.skipped, 1)
        speed = f", {self.steps / seconds:,.0f} decisions/s" if self.steps else ""
        note = f", {self.note}" if self.note else ""
        when = f"done in {seconds:.0f} s" if self.done >= self.total else f"{left:.0f} s left"
        log.info("%s: %d of %d %s%s%s, %s", self.label, self.done, self.total, self.unit, speed, note, when)
