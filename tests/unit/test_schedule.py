"""Timesteps, noise levels and the start of sampling."""

from __future__ import annotations

import pytest
import torch
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.schedule import (
    SPACINGS,
    Spacing,
    alpha_bar_from_sigma,
    leading_timesteps,
    lr_start,
    noise_for_start,
    spaced_timesteps,
    starts_at_the_top,
    vp_to_ve,
)


@pytest.mark.parametrize(
    ("spacing", "steps", "expected"),
    [
        ("leading", 50, list(range(981, 0, -20))),
        ("leading", 2, [501, 1]),
        ("leading", 1, [1]),
        ("leading", 7, [853, 711, 569, 427, 285, 143, 1]),
        ("trailing", 1, [999]),
        ("trailing", 2, [999, 499]),
        ("trailing", 4, [999, 749, 499, 249]),
        ("trailing", 16, [999, 937, 874, 811, 749, 687, 624, 561, 499, 437, 374, 311, 249, 187, 124, 61]),
    ],
)
def test_published_timesteps(spacing: Spacing, steps: int, expected: list[int]) -> None:
    assert spaced_timesteps(steps, spacing).tolist() == expected


@pytest.mark.parametrize("spacing", SPACINGS)
def test_any_number_of_steps_gives_that_many_valid_timesteps(spacing: Spacing) -> None:
    for steps in range(1, 1001):
        timesteps = spaced_timesteps(steps, spacing).tolist()
        assert len(timesteps) == len(set(timesteps)) == steps
        assert timesteps == sorted(timesteps, reverse=True)
        assert timesteps[0] <= 999 and timesteps[-1] >= 0
        assert spacing == "trailing" or timesteps[-1] == (0 if steps == 1000 else 1)


@pytest.mark.parametrize("steps", [0, -3, 1001])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_impossible_numbers_of_steps_are_refused(spacing: Spacing, steps: int) -> None:
    with pytest.raises(SeeSRError, match=f"steps is {steps}"):
        spaced_timesteps(steps, spacing)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_both_schedules_start_at_the_top_for_any_number_of_steps(spacing: Spacing, whole: bool) -> None:
    """Test the complete schedule, and the first of two stages."""
    for steps in range(1, 1001):
        timesteps = spaced_timesteps(steps, spacing).tolist()
        assert starts_at_the_top(timesteps if whole or steps < 3 else timesteps[: steps // 2 + 1]), steps


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_end_of_a_schedule_starts_at_the_top_only_if_it_equals_a_whole_schedule(spacing: Spacing) -> None:
    """For example, timestep 1 alone ends many schedules, and is also the leading schedule of one step."""
    for steps in range(2, 1001):
        timesteps = spaced_timesteps(steps, spacing).tolist()
        for left_out in {1, steps // 2, steps - 1}:
            end = timesteps[left_out:]
            assert starts_at_the_top(end) == (end == leading_timesteps(len(end)).tolist()), (steps, left_out)


def test_other_schedules_that_start_at_the_top() -> None:
    assert starts_at_the_top([999, 700, 13])
    assert starts_at_the_top([999])
    assert starts_at_the_top([999, 500]), "sgm_uniform's two steps"
    assert starts_at_the_top(list(range(995, 0, -142))), "as many strides as there is room for"


@pytest.mark.parametrize(
    "timesteps",
    [
        [],
        [501],
        [5, 5],
        [1, 21, 41],
        [981, 960, 941],
        [749, 499, 249],
        [909, 818, 727],
        leading_timesteps(10).tolist()[5:],
    ],
)
def test_a_start_in_mid_schedule_is_not_at_the_top(timesteps: list[int]) -> None:
    assert not starts_at_the_top(timesteps)


def test_alpha_bar_of_a_noise_level() -> None:
    """The levels include the smallest and the largest of Stable Diffusion 2."""
    sigma = torch.tensor([0.0292, 1.0, 14.6146])
    torch.testing.assert_close(alpha_bar_from_sigma(sigma), torch.tensor([0.999148, 0.5, 0.0046602]))


def test_lr_start_mixes_by_variance() -> None:
    latent, noise = torch.tensor([3.0]), torch.tensor([5.0])
    start = lr_start(latent, noise, torch.tensor(0.36))
    torch.testing.assert_close(start, torch.tensor([0.6 * 3.0 + 0.8 * 5.0]))


def test_vp_to_ve_is_signal_plus_noise() -> None:
    latent, noise, sigma = torch.randn(1, 4, 6, 5), torch.randn(1, 4, 6, 5), torch.tensor(2.5)
    start = vp_to_ve(lr_start(latent, noise, alpha_bar_from_sigma(sigma)), sigma)
    torch.testing.assert_close(start, latent + sigma * noise)


@pytest.mark.parametrize("max_denoise", [True, False])
def test_comfyuis_sampler_starts_exactly_at_the_wanted_latent(max_denoise: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    wanted, latent = torch.randn(2, 2, 4, 8, 8, generator=generator)
    wanted, sigma = 12 * wanted, torch.tensor(12.5)
    noise = noise_for_start(wanted, latent, sigma, max_denoise)
    started = noise * torch.sqrt(1 + sigma**2) + latent if max_denoise else noise * sigma + latent
    torch.testing.assert_close(started, wanted)


def test_the_noise_differs_with_and_without_max_denoise() -> None:
    wanted, latent, sigma = torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), torch.tensor(1.0)
    assert noise_for_start(wanted, latent, sigma, False).unique().tolist() == [1.0]
    torch.testing.assert_close(noise_for_start(wanted, latent, sigma, True), wanted / 2**0.5)
