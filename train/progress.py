"""What a training tells: a line and a row of log.csv for every few steps, with the speed and the time left."""

from __future__ import annotations

import csv
import io
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from ..commands.terminal import describe_seconds
from ..seesr_modules.errors import SeeSRError
from .config import Training
from .output import write_whole

LOG = "log.csv"
_COLUMNS = ("step", "loss", "learning_rate", "images_per_second")
_DAY_S = 24 * 3600

logger = logging.getLogger(__name__)


class Progress:
    """The loss since the last row of the log, and the time that its steps took without saving.

    Attributes:
        row: The step of the last row.
        loss: Sum of the losses of the steps since then, on the device.
        last_loss: The mean loss of the last row.
    """

    def __init__(self, accelerator: Accelerator, training: Training) -> None:
        """Start before the first step."""
        self._accelerator, self._training = accelerator, training
        self.row, self.last_loss = 0, math.nan
        self.loss = torch.zeros((), device=accelerator.device)
        self._since, self._first = time.monotonic(), 0

    def resume(self, step: int, row: int, loss: float) -> None:
        """Continue after a step. Rows of later steps, whose weights were lost, leave the log."""
        self.row = row
        self.loss.fill_(loss)
        self._since, self._first = time.monotonic(), step
        path = self._training.output / LOG
        if not self._accelerator.is_main_process or not path.exists():
            return
        rows = [line for line in csv.reader(path.read_text("utf-8").splitlines()) if _step_of(line) <= step]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([_COLUMNS, *(line for line in rows if _step_of(line) > 0)])
        write_whole(path, text.getvalue())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens within the context out of the speed."""
        begin = time.monotonic()
        yield
        self._since += time.monotonic() - begin

    def mean_loss(self) -> float:
        """Return the mean over the processes of the losses since the last row; all of them must call it."""
        return float(self._accelerator.reduce(self.loss, "mean").item())

    def report(self, step: int, rate: float) -> None:
        """Tell a line.

        Raises:
            SeeSRError: The loss is not finite.
        """
        options, now = self._training.optimisation, time.monotonic()
        self.last_loss = self.mean_loss() / (step - self.row)
        require_finite(self.last_loss, step)
        pictures = options.batch * options.accumulation * self._accelerator.num_processes
        per_step = max(now - self._since, 1e-9) / (step - self._first)
        speed = pictures / per_step
        self.row, self._first, self._since = step, step, now
        self.loss.zero_()
        values = {"loss": self.last_loss, "learning_rate": rate, "images_per_second": speed}
        self._accelerator.log(values, step=step)
        if self._accelerator.is_main_process:
            left = describe_left((options.steps - step) * per_step)
            told = (step, options.steps, self.last_loss, speed, left)
            logger.info("step %d/%d  loss %.5f  %.1f images/s  %s left", *told)
            self._add_row(step, rate, speed)

    def _add_row(self, step: int, rate: float, speed: float) -> None:
        path = self._training.output / LOG
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            if new:
                rows.writerow(_COLUMNS)
            rows.writerow((step, f"{self.last_loss:.6f}", f"{rate:.3g}", f"{speed:.1f}"))


def require_finite(loss: float, step: int) -> None:
    """Refuse a loss that is no number.

    Raises:
        SeeSRError: It is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise SeeSRError(
            f"The loss is {loss} after step {step}: lower learning_rate (--set optimisation.learning_rate=...). The "
            "same command goes on from the last checkpoint, which is kept, or else from the start."
        )


def describe_left(seconds: float) -> str:
    """Return a duration in words: 40 s, 12 min, 3 h 05 min, 11 d 13 h."""
    if seconds < _DAY_S:
        return describe_seconds(seconds)
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h"


def _step_of(line: list[str]) -> int:
    """Return the step of a row; 0 for the head, and for a row that was not written to its end."""
    return int(line[0]) if len(line) == len(_COLUMNS) and line[0].isdecimal() and line[-1] else 0
