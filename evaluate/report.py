"""Scores of all photos and methods, their means, and both as a table."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np

from .metrics import Metric
from .photos import Photo, Pixels

logger = logging.getLogger(__name__)

CLEAN = "truth"
"""Row and folder of the clean photos."""

TIME = "s/photo"
"""Head of the column of seconds."""

Row = dict[str, float | None]
"""Metric -> score, None where the metric is not defined for the picture."""

Scores = dict[str, dict[str, Row]]
"""Method -> photo -> row. Clean photos are not compared with themselves."""


def score_all(
    photos: Sequence[Photo], results: Mapping[str, Mapping[str, Pixels]], metrics: Sequence[Metric]
) -> Scores:
    """Score the results (method -> photo -> picture), of which some may be missing, then the clean photos."""
    alone = [metric for metric in metrics if not metric.compares]
    scores: Scores = {
        method: {photo.name: _score_row(photo, found.get(photo.name), metrics) for photo in photos}
        for method, found in results.items()
    }
    scores[CLEAN] = {photo.name: _score_row(photo, photo.clean, alone) for photo in photos}
    return scores


def _score_row(photo: Photo, result: Pixels | None, metrics: Sequence[Metric]) -> Row:
    """Score a result; one that is missing has no scores."""
    return {metric.name: None if result is None else _score(photo, result, metric) for metric in metrics}


def _score(photo: Photo, result: Pixels, metric: Metric) -> float | None:
    """Return a score; None if the metric is not defined for the picture, or its code refuses it."""
    try:
        score = metric.score(result, photo.clean)
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, ValueError) as error:  # SeeSRError is the last
        logger.warning("%s of %s is not defined: %s", metric.name, photo.name, error)
        return None
    return score if math.isfinite(score) else None


def means(scores: Scores) -> dict[str, Row]:
    """Return method -> metric -> mean of the defined scores, None if there are none."""
    return {
        method: {name: float(np.mean(found)) if found else None for name, found in columns.items()}
        for method, columns in _defined(scores).items()
    }


def counts(scores: Scores) -> dict[str, dict[str, int]]:
    """Return method -> metric -> number of photos with a defined score, which the mean is that of."""
    return {
        method: {name: len(found) for name, found in columns.items()} for method, columns in _defined(scores).items()
    }


def _defined(scores: Scores) -> dict[str, dict[str, list[float]]]:
    """Return method -> metric -> defined scores."""
    return {
        method: {
            name: [score for row in rows.values() if (score := row[name]) is not None]
            for name in next(iter(rows.values()))
        }
        for method, rows in scores.items()
    }


def format_table(scores: Scores, metrics: Sequence[Metric], seconds: Mapping[str, float]) -> str:
    """Return aligned lines: the means, then the scores of each photo.

    ``n/a`` stands for a score that is not defined. A mean over fewer photos than all has their number in brackets.

    Args:
        scores: As :func:`score_all` returns them.
        metrics: The columns.
        seconds: Method -> seconds for a photo, a further column of the means.
    """
    photos = list(scores[CLEAN])
    fewer = {
        method: {name: f" ({count})" for name, count in columns.items() if count < len(photos)}
        for method, columns in counts(scores).items()
    }
    blocks: list[tuple[str, Mapping[str, Row], Mapping[str, Mapping[str, str]]]] = [
        (f"mean of {len(photos)} photos", means(scores), fewer)
    ]
    blocks += [(photo, {method: rows[photo] for method, rows in scores.items()}, {}) for photo in photos]
    width = max(len(name) for name in (*(title for title, *_ in blocks), *(f"  {method}" for method in scores)))
    head = "".join(f"{metric.name:>12}" for metric in metrics)
    lines = [f"{'':<{width}}{head}{f'{TIME:>12}' if seconds else ''}"]
    for title, rows, notes in blocks:
        lines.append(title)
        for method, row in rows.items():
            note = notes.get(method, {})
            cells = "".join(f"{format_cell(row, metric) + note.get(metric.name, ''):>12}" for metric in metrics)
            time = f"{seconds[method]:>12.1f}" if rows is blocks[0][1] and method in seconds else ""
            lines.append(f"{f'  {method}':<{width}}{cells}{time}".rstrip())
    return "\n".join(lines)


def format_markdown(scores: Scores, metrics: Sequence[Metric], seconds: Mapping[str, float]) -> str:
    """Return the means as a table in Markdown, with the seconds for a photo (method -> seconds) if there are any."""
    rows = [["", *(metric.name for metric in metrics)], ["---", *["---:"] * len(metrics)]]
    rows += [[method, *(format_cell(row, metric) for metric in metrics)] for method, row in means(scores).items()]
    if seconds:
        times = [f"{seconds[method]:.1f}" if method in seconds else "" for method in scores]
        rows = [[*row, cell] for row, cell in zip(rows, [TIME, "---:", *times], strict=True)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def format_csv(scores: Scores, metrics: Sequence[Metric]) -> str:
    """Return the scores of each photo as CSV, one line per method and photo, unrounded; empty where not defined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "photo", *(metric.name for metric in metrics)])
    for method, rows in scores.items():
        for photo, row in rows.items():
            writer.writerow([method, photo, *(row.get(metric.name) for metric in metrics)])
    return text.getvalue()


def format_cell(row: Row, metric: Metric) -> str:
    """Return a score as it is shown; ``n/a`` if it is not defined, nothing if the row has none of its kind."""
    if metric.name not in row:
        return ""
    score = row[metric.name]
    return "n/a" if score is None else f"{score:.{metric.decimals}f}"
