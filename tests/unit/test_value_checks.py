"""The check of weights on loading covers every value in every type."""

from __future__ import annotations

import pytest
import torch
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.weights import value_checks
from seesr_pack.seesr_modules.weights.value_checks import cast_checked

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", DTYPES)
def test_good_values_are_cast(dtype: torch.dtype) -> None:
    tensor = torch.randn(3, 4).T
    assert torch.equal(cast_checked(tensor, dtype, "t", "x").float(), tensor.to(dtype).float())
    kept = tensor.to(dtype)
    assert cast_checked(kept, None, "t", "x") is kept
    assert cast_checked(kept, dtype, "t", "x") is kept
    assert cast_checked(torch.zeros(0, 4), dtype, "t", "x").shape == (0, 4)
    assert cast_checked(torch.empty(3, device="meta"), dtype, "t", "x").dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("at", [0, 4, 11])
def test_one_bad_value_anywhere_is_found(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, at: int) -> None:
    monkeypatch.setattr(value_checks, "_PIECE", 5)
    for value in (float("nan"), float("inf"), float("-inf")):
        tensor = torch.ones(12)
        tensor[at] = value
        for source, target in ((tensor, dtype), (tensor.to(dtype), None)):
            if not source.float().isfinite().all():  # casting to 8 bits may clip infinite values
                with pytest.raises(SeeSRError, match=r"^x: the tensor t has values that are NaN or infinite"):
                    cast_checked(source.view(3, 4), target, "t", "x")


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 65504.0), (torch.float8_e4m3fn, 448.0)])
def test_values_too_large_for_the_type_are_refused(dtype: torch.dtype, most: float) -> None:
    assert cast_checked(torch.tensor([-most]), dtype, "t", "x").float() == -most
    with pytest.raises(SeeSRError, match=f"the tensor t has values that {str(dtype)[6:]} does not hold; choose bfl"):
        cast_checked(torch.tensor([1.0, -2 * most]), dtype, "t", "x")


def test_integers_are_refused() -> None:
    with pytest.raises(SeeSRError, match=r"x does not fit: its tensor t holds torch\.int64, not floating-point"):
        cast_checked(torch.tensor([1]), torch.float32, "t", "x")
