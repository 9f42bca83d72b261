"""BSRGAN's operators equal those of the published code: kernels, blurs, resizes, and the covariance of its noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from likeness import assert_alike
from safetensors.torch import load_file
from seesr_pack.seesr_modules.method.bsrgan import correlated_covariance, shift_kernel
from seesr_pack.seesr_modules.method.degrade import bell_kernel, blur
from seesr_pack.seesr_modules.method.resizing import FILTERS, halve_as_matlab, resize_as_opencv

pytestmark = [pytest.mark.golden("bsrgan_operators"), pytest.mark.pinned_only("pure code, without ComfyUI")]


def test_operators(golden_case: dict[str, Any], golden_dir: Path) -> None:
    data = load_file(golden_dir / golden_case["file"])
    image, tolerance = data["image"].movedim(-1, 0), golden_case["tolerance"]

    def check(name: str, found: Any, kind: str) -> None:
        expected = data[name].double()
        assert_alike(found.double(), expected.movedim(-1, 0) if kind == "pictures" else expected, tolerance[kind])

    for number, row in enumerate(golden_case["aniso"]):
        kernel = bell_kernel(row["size"], (math.sqrt(row["l1"]), math.sqrt(row["l2"])), row["theta"])
        check(f"aniso.{number}", kernel, "kernels")
        check(f"aniso_blur.{number}", blur(image, kernel, mirrored=True), "pictures")
    for number, row in enumerate(golden_case["gaussian"]):
        kernel = bell_kernel(row["size"], (row["sigma"], row["sigma"]))
        check(f"gaussian.{number}", kernel, "kernels")
        check(f"gaussian_blur.{number}", blur(image, kernel, mirrored=True), "pictures")
    for number, row in enumerate(golden_case["shifted"]):
        sf = row["sf"]
        kernel = shift_kernel(bell_kernel(row["size"], (row["sigma"], row["sigma"])), (sf - 1) / 2)
        check(f"shifted.{number}", kernel, "kernels")
        check(f"shifted_pick.{number}", blur(image, kernel, mirrored=True)[:, ::sf, ::sf], "pictures")
    for number, row in enumerate(golden_case["resize"]):
        for mode in FILTERS:
            found = resize_as_opencv(image, (row["height"], row["width"]), mode)
            check(f"resize_{mode}.{number}", found, "pictures")
    check("half", halve_as_matlab(image), "pictures")
    for number, row in enumerate(golden_case["correlated"]):
        basis = data[f"correlated_U.{number}"].double()
        covariance = correlated_covariance(data[f"correlated_D.{number}"].double(), basis, row["level"])
        check(f"correlated_cov.{number}", covariance, "covariance")
