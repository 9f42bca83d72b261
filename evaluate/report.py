"""Scores of all photos and methods, their means, and both as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .metrics import Metric
from .photos import Photo, Pixels

CLEAN = "truth"
"""Row and folder of the clean photos."""

Scores = dict[str, dict[str, dict[str, float]]]
"""Method -> photo -> metric -> score. Clean photos are not compared with themselves."""


def score_all(
    photos: Sequence[Photo], results: Mapping[str, Mapping[str, Pixels]], metrics: Sequence[Metric]
) -> Scores:
    """Score the results (method -> photo -> picture), then the clean photos."""
    scores: Scores = {
        method: {
            photo.name: {metric.name: metric.score(found[photo.name], photo.clean) for metric in metrics}
            for photo in photos
        }
        for method, found in results.items()
    }
    alone = [metric for metric in metrics if not metric.compares]
    scores[CLEAN] = {
        photo.name: {metric.name: metric.score(photo.clean, photo.clean) for metric in alone} for photo in photos
    }
    return scores


def means(scores: Scores) -> dict[str, dict[str, float]]:
    """Return method -> metric -> mean over the photos."""
    return {
        method: {name: float(np.mean([row[name] for row in rows.values()])) for name in next(iter(rows.values()))}
        for method, rows in scores.items()
    }


def format_table(scores: Scores, metrics: Sequence[Metric]) -> str:
    """Return aligned lines: the means, then the scores of each photo."""
    photos = list(scores[CLEAN])
    groups = {f"mean of {len(photos)} photos": means(scores)}
    groups |= {photo: {method: rows[photo] for method, rows in scores.items()} for photo in photos}
    width = max(len(name) for name in (*groups, *(f"  {method}" for method in scores)))
    head = "".join(f"{metric.name:>12}" for metric in metrics)
    lines = [f"{'':<{width}}{head}"]
    for group, rows in groups.items():
        lines.append(group)
        for method, row in rows.items():
            cells = "".join(f"{row[m.name]:>12.{m.decimals}f}" if m.name in row else f"{'':>12}" for m in metrics)
            lines.append(f"{f'  {method}':<{width}}{cells}".rstrip())
    return "\n".join(lines)
