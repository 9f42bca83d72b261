"""Scores of all photos and methods, their means, and both as a table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np

from .metrics import Metric
from .photos import Photo, Pixels

CLEAN = "truth"
"""Row and folder of the clean photos."""

Row = dict[str, float | None]
"""Metric -> score, None where the metric is not defined for the picture."""

Scores = dict[str, dict[str, Row]]
"""Method -> photo -> row. Clean photos are not compared with themselves."""


def score_all(
    photos: Sequence[Photo], results: Mapping[str, Mapping[str, Pixels]], metrics: Sequence[Metric]
) -> Scores:
    """Score the results (method -> photo -> picture), then the clean photos."""
    alone = [metric for metric in metrics if not metric.compares]
    scores: Scores = {
        method: {photo.name: _score(found[photo.name], photo.clean, metrics) for photo in photos}
        for method, found in results.items()
    }
    scores[CLEAN] = {photo.name: _score(photo.clean, photo.clean, alone) for photo in photos}
    return scores


def _score(result: Pixels, clean: Pixels, metrics: Sequence[Metric]) -> Row:
    found = {metric.name: metric.score(result, clean) for metric in metrics}
    return {name: score if math.isfinite(score) else None for name, score in found.items()}


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


def format_table(scores: Scores, metrics: Sequence[Metric]) -> str:
    """Return aligned lines: the means, then the scores of each photo.

    ``n/a`` stands for a score that is not defined. A mean over fewer photos than all has their number in brackets.
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
    lines = [f"{'':<{width}}{head}"]
    for title, rows, notes in blocks:
        lines.append(title)
        for method, row in rows.items():
            note = notes.get(method, {})
            cells = "".join(f"{_format_cell(row, metric) + note.get(metric.name, ''):>12}" for metric in metrics)
            lines.append(f"{f'  {method}':<{width}}{cells}".rstrip())
    return "\n".join(lines)


def format_markdown(scores: Scores, metrics: Sequence[Metric]) -> str:
    """Return the means as a table in Markdown."""
    rows = [["", *(metric.name for metric in metrics)], ["---", *["---:"] * len(metrics)]]
    rows += [[method, *(_format_cell(row, metric) for metric in metrics)] for method, row in means(scores).items()]
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


def _format_cell(row: Row, metric: Metric) -> str:
    if metric.name not in row:
        return ""
    score = row[metric.name]
    return "n/a" if score is None else f"{score:.{metric.decimals}f}"
