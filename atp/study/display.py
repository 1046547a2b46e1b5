"""Show the progress of a run of the workflow, from the records that Snakemake logs.

Each finished job is one line. On a terminal a bar and the running jobs are below these lines. The profile
workflow/profiles/default turns the display on.
"""

import logging
import os
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from snakemake.logging import ColorizingTextHandler, DefaultFilter, get_event, logger
from snakemake.settings.enums import Quietness
from snakemake.settings.types import OutputSettings
from snakemake_interface_logger_plugins.common import LogEvent

from atp.units import duration

#: The display replaces Snakemake's output if `quiet` has exactly these words. With `progress` Snakemake does not log
#: that a job has finished, and with `all` errors in the study or the command line would be invisible.
QUIET = {Quietness.HOST, Quietness.REASON, Quietness.RULES}
#: Messages of Snakemake that are shown although they are no warnings.
COMPLETE, INTERRUPTED = "Nothing to be done", "Terminating processes"
SHOWN = re.compile(f"{COMPLETE}|{INTERRUPTED}|Will exit after|Trying to restart")
#: Errors of Snakemake that only repeat that a job has failed.
REPEATED = re.compile("CalledProcessError in file|At least one job did not complete|Exiting because a job execution")
#: A line of atp/progress.py: its message, units done, and all units.
PROGRESS = re.compile(r".*: ((\d+) of (\d+) .*)")
LOG_TAIL_BYTES = 16_384
MAX_WIDTH = 140


@dataclass(frozen=True)
class Job:
    """A job that Snakemake has started."""

    stage: str
    output: str
    log: str
    started: float

    def __str__(self) -> str:
        return f"{self.stage}  {self.output}"

    def seconds(self) -> str:
        return duration(time.time() - self.started)

    def progress(self) -> tuple[str, float]:
        """Return the last progress message of the job's log, and the fraction of units that are done."""
        for match in filter(None, map(PROGRESS.fullmatch, reversed(self.log_lines()))):
            return match[1], int(match[2]) / max(int(match[3]), 1)
        return "", 0.0

    def error(self) -> str:
        """Return the line of the job's log that names its error."""
        errors = [line for line in self.log_lines() if line.startswith("atp: ")]
        return errors[-1] if errors else "atp: the job ended without a message; a killed job often lacks memory"

    def log_lines(self) -> list[str]:
        """Return the last lines of the job's log, none if the log is of an earlier run."""
        try:
            with open(self.log, "rb") as file:
                status = os.fstat(file.fileno())
                file.seek(max(status.st_size - LOG_TAIL_BYTES, 0))
                text = file.read() if status.st_mtime >= self.started else b""
        except OSError:
            return []
        return text.decode("utf-8", "replace").splitlines()


class Display(logging.Handler):
    """Shows a run from its start until Snakemake closes its log handlers."""

    def __init__(self, report: Path):
        super().__init__()
        self.report = report
        self.live: Live | None = None
        self.started = 0.0
        self.done = self.total = 0
        self.is_complete = self.is_interrupted = False
        self.is_reported = True  # unless the run makes something else
        self.jobs: dict[int, Job] = {}
        self.failed: dict[int, Job] = {}

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if get_event(record) == LogEvent.WORKFLOW_STARTED:
                self.start()
            elif self.started:
                self.show(record)
        except Exception:  # as handlers of `logging` do: an error of the display stops no run
            self.handleError(record)

    def show(self, record: logging.LogRecord) -> None:
        values, text = vars(record), record.getMessage()
        match get_event(record):
            case LogEvent.RUN_INFO:
                self.total = values["stats"]["total"]
                self.is_reported = "report" in values["stats"] or not self.total
            case LogEvent.JOB_INFO if values["log"]:  # the rule `all` has none
                output = os.path.relpath(values["output"][0], self.report.parent)
                self.jobs[values["jobid"]] = Job(values["rule_name"], output, values["log"][0], time.time())
            case LogEvent.JOB_FINISHED:
                self.done += 1
                self.is_complete = self.done == self.total
                self.failed.pop(values["job_id"], None)  # an earlier attempt
                if job := self.jobs.pop(values["job_id"], None):
                    count = f"{self.done:{len(str(self.total))}} of {self.total}"
                    message = job.progress()[0].rpartition(", ")[0]
                    self.say("  ".join(filter(None, [count, str(job), job.seconds(), message])))
            case LogEvent.JOB_ERROR if job := self.jobs.pop(values["jobid"], None):
                if not self.is_interrupted:
                    self.failed[values["jobid"]] = job
                    self.say(f"failed  {job}  {job.seconds()}", "red")
            case _ if SHOWN.match(text) or (record.levelno >= logging.WARNING and not REPEATED.search(text)):
                self.is_complete |= text.startswith(COMPLETE)
                self.is_interrupted |= text.startswith(INTERRUPTED)
                self.say(text, "red" if record.levelno >= logging.ERROR else "yellow")

    def say(self, text: str, style: str = "") -> None:
        for line in text.splitlines():
            self.console.print(Text(printable(line), style), soft_wrap=True)

    def start(self) -> None:
        """Replace Snakemake's output on the terminal. Its log file gets everything."""
        self.started = time.time()
        os.environ["ATP_DISPLAY"] = "1"  # jobs then write only warnings and errors to the terminal (script.py)
        for handler in list(logger.handlers):
            if isinstance(handler, ColorizingTextHandler):
                logger.removeHandler(handler)
            for log_filter in handler.filters:
                if isinstance(log_filter, DefaultFilter):
                    log_filter.quiet = set()
        self.relay_stderr()
        if self.console.is_interactive:
            self.live = Live(console=self.console, get_renderable=self.frame, transient=True, redirect_stdout=False)
            self.live.start()

    def relay_stderr(self) -> None:
        """Print what this process and its jobs write to standard error above the bar, without control codes."""
        self.stderr = os.dup(2)
        terminal = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
        self.console = Console(file=terminal, force_terminal=terminal.isatty())
        read, write = os.pipe()
        os.dup2(write, 2)
        os.close(write)

        def relay() -> None:
            with os.fdopen(read, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    self.say(line)

        self.relay = threading.Thread(target=relay, daemon=True)
        self.relay.start()

    def frame(self) -> Group:
        """Return the bar and a table of the running jobs."""
        width = min(self.console.width - len("^C"), MAX_WIDTH)  # an echo that wraps would shift the next frame
        table = Table.grid(padding=(0, 2))
        table.width, done = width, float(self.done)
        for ratio in (None, 1, None, None):  # the output's path fills the rest of a line
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=ratio)
        for job in list(self.jobs.values()):
            message, fraction = job.progress()
            table.add_row(*(Text(printable(text)) for text in (job.stage, job.output, job.seconds(), message)))
            done += fraction
        elapsed = time.time() - self.started
        left = f"about {duration(elapsed * (self.total - done) / done)} left" if done else ""
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=max(self.total, 1), completed=done, width=width // 4)
        head.add_row(bar, f"{self.done} of {self.total} jobs", duration(elapsed), left)
        return Group(head, table)

    def close(self) -> None:
        """Remove the bar, print a summary and give standard error back. Snakemake and `logging` call this."""
        if self.started:
            os.dup2(self.stderr, 2)
            self.relay.join(timeout=1)  # it does not end while a process that a job left behind holds the pipe
            if self.live:
                self.live.stop()
            self.summarize()
            self.started = 0.0
        super().close()

    def summarize(self) -> None:
        """Print how many jobs are done, which failed, and where the report is."""
        if self.total:
            failed = f", {len(self.failed)} failed" if self.failed else ""
            failed += ", interrupted; the same command resumes" if self.is_interrupted else ""
            text = f"{self.done} of {self.total} jobs done in {duration(time.time() - self.started)}{failed}"
            self.say(text, "green" if self.is_complete else "red")
        for job in self.failed.values():
            self.say(f"failed  {job}", "red")
            self.say(f"  {job.error()}\n  log: {Path(job.log).absolute()}")
        if self.is_complete and self.is_reported and self.report.is_file():
            self.say(f"The report is {self.report.absolute()}")


def printable(text: str) -> str:
    """Return a line without control characters; logs may contain text of models."""
    return "".join(character if character.isprintable() else " " for character in text).rstrip()


def show_progress(settings: OutputSettings, report: str) -> None:
    """Show the progress of this run, unless it is a dry run or `quiet` differs from the default profile's.

    Args:
        settings: Snakemake's settings of its output.
        report: Path of the report. The summary of a complete run names it if it exists.
    """
    if set(settings.quiet or ()) == QUIET and not settings.dryrun:
        logger.addHandler(Display(Path(report)))
