"""Log the progress of long-running work."""

import logging
import time

log = logging.getLogger("atp")

LOG_INTERVAL_SECONDS = 5.0


class Progress:
    """Count finished units of work and log, every few seconds, how many are done and how much time is left.

    Skipped units (finished by an earlier run) count as done but not towards the speed.
    """

    def __init__(self, label: str, total: int, unit: str, skipped: int = 0):
        self.label, self.total, self.unit = label, total, unit
        self.done = self.skipped = skipped
        self.steps = 0
        self.note = ""
        self.started = self.last_log = time.monotonic()
        if skipped:
            log.info("%s: resuming after %d of %d %s", label, skipped, total, unit)

    def advance(self, done: int, steps: int = 0, last: bool = False) -> None:
        """Add `done` finished units, which took `steps` decisions or steps; `last` forces a log line."""
        self.done += done
        self.steps += steps
        now = time.monotonic()
        if now - self.last_log < LOG_INTERVAL_SECONDS and not last:
            return
        self.last_log = now
        seconds = max(now - self.started, 1e-9)
        left = (self.total - self.done) * seconds / max(self.done - self.skipped, 1)
        speed = f", {self.steps / seconds:,.0f} decisions/s" if self.steps else ""
        note = f", {self.note}" if self.note else ""
        when = f"done in {seconds:.0f} s" if self.done >= self.total else f"{left:.0f} s left"
        log.info("%s: %d of %d %s%s%s, %s", self.label, self.done, self.total, self.unit, speed, note, when)
