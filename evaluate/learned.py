"""Learned metrics, where pyiqa is installed and has its weights or can fetch them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch

from .metrics import Metric
from .photos import Pixels

LEARNED = (("LPIPS", "lpips", True), ("MUSIQ", "musiq", False), ("CLIPIQA", "clipiqa", False))
"""Name, pyiqa's name, whether it compares with the truth."""


def learned_metrics() -> tuple[list[Metric], str]:
    """Return those that can be computed here, and one sentence on those that cannot, or an empty one."""
    if find_spec("pyiqa") is None:
        names = ", ".join(name for name, *_ in LEARNED)
        return [], f"Without {names}: pyiqa is not installed."
    import pyiqa

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    metrics, without = [], {}
    for name, key, against_truth in LEARNED:
        try:
            model = pyiqa.create_metric(key, device=device)
        except (OSError, ImportError) as error:  # no network, no such file; a package of its own is missing
            without[name] = error
        else:
            metrics.append(Metric(name, 4, against_truth, _score(model, against_truth)))
    reasons = "; ".join(sorted({str(error) for error in without.values()}))
    return metrics, f"Without {', '.join(without)}: pyiqa cannot load it ({reasons})." if without else ""


def _score(model: Callable[..., torch.Tensor], against_truth: bool) -> Callable[[Pixels, Pixels], float]:
    def tensor(picture: Pixels) -> torch.Tensor:
        return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255

    def score(result: Pixels, truth: Pixels) -> float:
        pictures = (result, truth) if against_truth else (result,)
        with torch.inference_mode():
            return model(*map(tensor, pictures)).item()

    return score
