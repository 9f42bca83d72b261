"""Learned metrics. They need pyiqa, and its weights on disk or a network to fetch them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch

from .metrics import Metric
from .photos import Pixels

LEARNED = (
    ("LPIPS", "lpips", True),
    ("DISTS", "dists", True),
    ("MUSIQ", "musiq", False),
    ("MANIQA", "maniqa-pipal", False),
    ("CLIPIQA", "clipiqa", False),
)
"""Name, pyiqa's name, whether it compares with the clean photo."""


def load_learned_metrics() -> tuple[list[Metric], str]:
    """Return the metrics that can be computed here, and a sentence about the others, or an empty string."""
    if find_spec("pyiqa") is None:
        names = ", ".join(name for name, *_ in LEARNED)
        return [], f"Without {names}: pyiqa is not installed."
    import pyiqa

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    metrics, without = [], {}
    for name, key, compares in LEARNED:
        try:
            model = pyiqa.create_metric(key, device=device)
        except (OSError, ImportError) as error:  # no network, no such file; a package that the metric needs is missing
            without[name] = error
        else:
            metrics.append(Metric(name, 4, compares, _make_score(model, compares)))
    reasons = "; ".join(sorted({str(error) for error in without.values()}))
    return metrics, f"Without {', '.join(without)}: pyiqa cannot load it ({reasons})." if without else ""


def _make_score(model: Callable[..., torch.Tensor], compares: bool) -> Callable[[Pixels, Pixels], float]:
    def tensor(picture: Pixels) -> torch.Tensor:
        return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255

    def score(result: Pixels, clean: Pixels) -> float:
        pictures = (result, clean) if compares else (result,)
        with torch.inference_mode():
            return model(*map(tensor, pictures)).item()

    return score
