"""What `make table2` shows: a line for each job when it ends, and on a terminal a bar with the time left.

A plugin of Snakemake (`--logger altq`), which finds it by the name of this package where PYTHONPATH has the folder of the
rules. It writes to standard output, so that the messages of jobs, on standard error, may go elsewhere. Snakemake's own
log, under .snakemake/log, has everything.
"""

import logging
import sys
import time
from pathlib import Path

from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from tqdm import tqdm

BAR = "{percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt} jobs, {elapsed} so far, {remaining} left{postfix}"
LINES_OF_LOG = 25
"""So many last lines of its log are shown of a job that failed."""


class LogHandler(LogHandlerBase):
    """Turns Snakemake's events into lines of standard output."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.running: dict[int, tuple[str, float]] = {}
        self.bar: tqdm | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Show what is for people; how jobs were chosen and what they asked for is in Snakemake's log."""
        match getattr(record, "event", None):
            case LogEvent.RUN_INFO:
                self._start(record.stats["total"])
            case LogEvent.JOB_INFO:
                name = " ".join([record.rule_name, *map(str, (record.wildcards or {}).values())])
                self.running[record.jobid] = (name, time.monotonic())
                self._show_running()
            case LogEvent.JOB_FINISHED:
                name, started = self.running.pop(record.job_id, ("", time.monotonic()))
                self._line(f"{time.strftime('%H:%M:%S')}  {name}, {time.monotonic() - started:.0f} s")
                self._show_running()
            case LogEvent.PROGRESS:
                self._progress(record.done, record.total)
            case LogEvent.JOB_ERROR:
                self.running.pop(record.jobid, None)
                self._failure(record)
            case _ if record.levelno >= logging.WARNING or record.msg == NOTHING_TO_BE_DONE_MSG:
                self._line(record.getMessage())

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
        super().close()

    def _start(self, total: int) -> None:
        on_terminal = sys.stdout.isatty()
        self.bar = tqdm(total=total, bar_format=BAR, file=sys.stdout, leave=False, disable=not on_terminal)
        self._line(f"{total} jobs")

    def _progress(self, done: int, total: int) -> None:
        """Move the bar; a checkpoint of Snakemake may have added jobs."""
        if self.bar is not None:
            self.bar.total = total
            self.bar.update(done - self.bar.n)

    def _show_running(self) -> None:
        if self.bar is not None:
            self.bar.set_postfix_str(f"{len(self.running)} running")

    def _failure(self, record: logging.LogRecord) -> None:
        """Show which job failed, how it was called, and the end of its log."""
        self._line(f"{time.strftime('%H:%M:%S')}  FAILED: {record.rule_name}, {', '.join(record.output)}")
        if record.rule_msg:
            self._line(record.rule_msg)
        if record.shellcmd:
            self._line(f"    {record.shellcmd}")
        for log in map(Path, record.log):
            if log.is_file():
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
                self._line("\n".join([f"    the end of {log}:", *(f"    {line}" for line in lines[-LINES_OF_LOG:])]))

    @staticmethod
    def _line(text: str) -> None:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
