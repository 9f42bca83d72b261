"""SeeSR's start and schedules, with every sampler and scheduler of ComfyUI."""

from __future__ import annotations

from typing import Any

import builders
import comfy.sample
import comfy.samplers
import pytest
import torch
from likeness import SAME, assert_alike
from noise_levels import alphas_cumprod
from scenes import Tiny, apply_scene, make_scene
from seesr_pack.seesr_modules.comfyui.loading.seesr import load_seesr
from seesr_pack.seesr_modules.comfyui.networks.base_model import base_model
from seesr_pack.seesr_modules.comfyui.steps.sampling import (
    SEEDS,
    SEESR_SCHEDULERS,
    sample,
    sampler_sigmas,
    seesr_sigmas,
    start_from_lr,
)
from seesr_pack.seesr_modules.config import EncoderSizes
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.schedule import SPACINGS, Spacing, spaced_timesteps
from seesr_pack.seesr_modules.weights.checkpoint import InMemory
from seesr_pack.train.denoiser import SeeSRDenoiser
from torch import Tensor

SAMPLERS = comfy.samplers.SAMPLER_NAMES
SCHEDULERS = [*SEESR_SCHEDULERS, *comfy.samplers.SCHEDULER_NAMES]
SCALE = 0.18215


def first_input(model: Any, latent: Tensor, sampler: Any, sigmas: Tensor, noise: Tensor, **options: Any) -> Tensor:
    """Return the first latent that a sampler passes to the model, at the variance-exploding scale."""
    seen: list[Tensor] = []
    model = model.clone()

    def stop(apply: Any, arguments: dict[str, Any]) -> Tensor:
        seen.append(arguments["input"])
        raise InterruptedError

    model.set_model_unet_function_wrapper(stop)
    conds = [[torch.zeros(1, 77, 64), {}]]
    with pytest.raises(InterruptedError):
        comfy.sample.sample_custom(
            model, noise, 1.0, sampler, sigmas, conds, conds, latent, seed=1, disable_pbar=True, **options
        )
    return seen[0][:1]  # some samplers run both conds at any guidance


@pytest.fixture(scope="module")
def lr_started(tiny: Tiny) -> Any:
    """A MODEL with only the LR start of SeeSR."""
    model = tiny.model.clone()
    start_from_lr(model)
    return model


def published_start(latent: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Return the LR latent noised to timestep 999, at the scale of ComfyUI's samplers at ``sigma``."""
    last = alphas_cumprod()[-1]
    return (last.sqrt() * latent * SCALE + (1 - last).sqrt() * noise) * torch.sqrt(1 + sigma**2)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "schedule",
    [*((name, steps) for name in SEESR_SCHEDULERS for steps in (2, 7, 50)), ("normal", 6), ("karras", 6)],
)
def test_every_sampler_starts_from_the_lr_latent(lr_started: Any, sampler: str, schedule: tuple[str, int]) -> None:
    """The model's first input is the published start, within float32's rounding."""
    scheduler, steps = schedule
    sigmas = sampler_sigmas(lr_started, sampler, scheduler, steps, 1.0)
    generator = torch.Generator().manual_seed(0)
    latent, noise = (torch.randn(1, 4, 4, 6, generator=generator) for _ in range(2))
    seen = first_input(lr_started, latent, comfy.samplers.sampler_object(sampler), sigmas, noise.clone())
    expected = published_start(latent, noise, sigmas[0])
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5 * float(expected.std()))


@pytest.mark.parametrize("steps", [1, 3, 6, 7, 12, 15, 18, 30, 36, 999, 1000])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("full_run", [True, None], ids=["by the sampler node", "by the timesteps"])
def test_both_schedules_start_from_the_lr_latent_at_any_number_of_steps(
    smallest: Any, steps: int, spacing: Spacing, full_run: bool | None
) -> None:
    """Tiled Sampler states that a run is complete. With other samplers the timesteps decide."""
    scene, (model, positive, negative) = smallest
    seen: list[Tensor] = []
    model = model.clone()

    def stop(apply: Any, arguments: dict[str, Any]) -> Tensor:
        seen.append(arguments["input"])
        raise InterruptedError

    model.set_model_unet_function_wrapper(stop)
    sigmas = seesr_sigmas(model, steps, spacing)
    with pytest.raises(InterruptedError):
        sample(model, positive, negative, scene.latent, 5, 1.0, "euler", sigmas, full_run=full_run)
    latent = scene.latent["samples"]
    expected = published_start(latent, comfy.sample.prepare_noise(latent, 5), sigmas[0])
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-5 * float(expected.std()))


@pytest.mark.parametrize(
    ("scheduler", "steps", "denoise"),
    [
        ("seesr", 1, 0.5),
        ("seesr_trailing", 1, 0.5),
        ("seesr_trailing", 200, 0.4),  # ends in 1, like the leading schedule of 200 steps with stride 5
        ("ddim_uniform", 1, 0.5),
        ("simple", 10, 0.9),
        ("normal", 3, 0.7),
        ("simple", 3, 0.7),
    ],
)
def test_denoise_below_one_never_replaces_the_latent(smallest: Any, scheduler: str, steps: int, denoise: float) -> None:
    """At any timesteps, the latent keeps its share of the start."""
    _, (model, *_rest) = smallest
    seen: list[Tensor] = []
    model = model.clone()
    model.set_model_unet_function_wrapper(
        lambda apply, arguments: seen.append(arguments["input"]) or torch.zeros_like(arguments["input"])
    )
    conds = [[torch.zeros(1, 77, 64), {}]]
    sigmas = sampler_sigmas(model, "euler", scheduler, steps, denoise)
    latent = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    sample(model, conds, conds, {"samples": latent}, 5, 1.0, "euler", sigmas, full_run=False)
    expected = latent * SCALE + sigmas[0] * comfy.sample.prepare_noise(latent, 5)
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-5 * float(expected.std()))


@pytest.mark.parametrize("scheduler", SEESR_SCHEDULERS)
def test_denoise_uses_the_end_of_a_longer_schedule(tiny: Tiny, scheduler: str) -> None:
    whole = seesr_sigmas(tiny.model, 8, SEESR_SCHEDULERS[scheduler])
    assert torch.equal(sampler_sigmas(tiny.model, "euler", scheduler, 2, 0.25), whole[-3:])


def test_denoise_starts_near_pasds_timestep(tiny: Tiny) -> None:
    """The help of Tiled Sampler says so."""
    levels = tiny.model.get_model_object("model_sampling").sigmas
    for scheduler, timestep in (("seesr", 883), ("seesr_trailing", 908)):
        start = sampler_sigmas(tiny.model, "ddpm", scheduler, 50, 0.9)[0]
        assert int((levels - start).abs().argmin()) == timestep


@pytest.mark.parametrize("scheduler", SEESR_SCHEDULERS)
def test_more_steps_than_timesteps_left_by_denoise_are_refused(tiny: Tiny, scheduler: str) -> None:
    """The run must not start at a higher noise level than requested."""
    assert len(sampler_sigmas(tiny.model, "euler", scheduler, 500, 0.5)) == 501
    with pytest.raises(SeeSRError, match=r"steps is 501: with denoise 0\.5 there are 500 timesteps left"):
        sampler_sigmas(tiny.model, "euler", scheduler, 501, 0.5)


def test_the_noise_start_is_the_published_one(lr_started: Any) -> None:
    """From an empty latent, sampling starts at unit variance."""
    sigmas = seesr_sigmas(lr_started, 50)
    noise = torch.randn(1, 4, 4, 4)
    seen = first_input(
        lr_started, torch.zeros(1, 4, 4, 4), comfy.samplers.sampler_object("ddpm"), sigmas, noise.clone()
    )
    torch.testing.assert_close(seen, noise * torch.sqrt(1 + sigmas[0] ** 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_start_in_mid_schedule_equals_comfyuis(lr_started: Any, tiny: Tiny, scheduler: str) -> None:
    """With denoise 0.5, the run starts from the latent plus noise, with and without SeeSR."""
    sigmas = sampler_sigmas(lr_started, "euler", scheduler, 10, 0.5)
    latent, noise = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    euler = comfy.samplers.sampler_object("euler")
    ours = first_input(lr_started, latent, euler, sigmas, noise.clone())
    assert torch.equal(ours, first_input(tiny.model, latent, euler, sigmas, noise.clone()))


def test_without_noise_no_noise_is_added(lr_started: Any, tiny: Tiny) -> None:
    """The second stage of KSamplerAdvanced adds no noise."""
    latent, noise = torch.randn(1, 4, 4, 4), torch.zeros(1, 4, 4, 4)
    euler, sigmas = comfy.samplers.sampler_object("euler"), seesr_sigmas(lr_started, 10)
    assert torch.equal(
        first_input(lr_started, latent, euler, sigmas, noise), first_input(tiny.model, latent, euler, sigmas, noise)
    )


def test_step_noise_differs_from_start_noise(lr_started: Any) -> None:
    """ComfyUI draws both from generators with the same seed."""
    later_inputs: list[Tensor] = []
    inputs: list[Tensor] = []
    model = lr_started.clone()
    model.set_model_unet_function_wrapper(
        lambda apply, arguments: inputs.append(arguments["input"]) or torch.zeros_like(arguments["input"])
    )
    conds = [[torch.zeros(1, 77, 64), {}]]
    latent = torch.zeros(1, 4, 8, 8)
    noise = comfy.sample.prepare_noise(latent, 9)
    sigmas = seesr_sigmas(model, 3)
    sampler = comfy.samplers.sampler_object("ddpm")
    comfy.sample.sample_custom(model, noise, 1.0, sampler, sigmas, conds, conds, latent, seed=9, disable_pbar=True)
    later_inputs += inputs[1:]
    # The model predicts zero, so each step is a multiple of the first input plus that step's noise.
    flat, first = noise.flatten(), later_inputs[0].flatten()
    step = first - flat * (first @ flat) / (flat @ flat)
    assert step.std() > 0.1 * first.std()


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 30, 50, 333, 999, 1000])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_seesr_sigmas_for_any_number_of_steps(tiny: Tiny, steps: int, spacing: Spacing) -> None:
    """The sigmas have the requested number, the published timesteps and a final zero."""
    sigmas = seesr_sigmas(tiny.model, steps, spacing)
    alpha = alphas_cumprod()[spaced_timesteps(steps, spacing)].float()
    assert sigmas.shape == (steps + 1,)
    assert sigmas[-1] == 0
    torch.testing.assert_close(sigmas[:-1], ((1 - alpha) / alpha).sqrt(), rtol=1e-4, atol=0)


def test_ddim_uniform_is_the_published_schedule_at_50(tiny: Tiny) -> None:
    """The two schedulers agree for numbers of steps at which ComfyUI's scheduler is exact."""
    torch.testing.assert_close(
        sampler_sigmas(tiny.model, "ddpm", "ddim_uniform", 50, 1.0), seesr_sigmas(tiny.model, 50)
    )


@pytest.mark.parametrize("steps", [0, 1001])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_impossible_steps_are_refused(tiny: Tiny, steps: int, spacing: Spacing) -> None:
    """The message names the range."""
    with pytest.raises(SeeSRError, match="from 1 to 1000"):
        seesr_sigmas(tiny.model, steps, spacing)


def test_denoise_zero_returns_the_latent(lr_started: Any) -> None:
    """Nothing is sampled, and all entries of the latent are kept."""
    latent = {"samples": torch.randn(1, 4, 4, 4), "batch_index": [0]}
    conds = [[torch.zeros(1, 77, 64), {}]]
    result = sample(
        lr_started, conds, conds, latent, 0, 1.0, "euler", sampler_sigmas(lr_started, "euler", "seesr", 5, 0.0)
    )
    torch.testing.assert_close(result["samples"], latent["samples"])
    assert result["batch_index"] == [0]


@pytest.fixture(scope="module")
def smallest() -> Any:
    """SeeSR on the smallest UNet with every kind of block, applied to a scene."""
    sizes = EncoderSizes(
        in_channels=4,
        model_channels=64,
        channel_mult=(1,),
        num_res_blocks=(1,),
        transformer_depth=(1,),
        transformer_depth_middle=1,
        context_dim=64,
    )
    with torch.device("meta"):
        shapes = SeeSRDenoiser(sizes).state_dicts()
    synth = builders.load_synth(builders.GOLDEN)
    unet, control = (
        synth.synthetic_state_dict({name: tuple(t.shape) for name, t in shapes[part].items()})
        for part in ("unet", "controlnet")
    )
    seesr = load_seesr(InMemory(unet), InMemory(control), "float32")
    scene = make_scene(4, 4)
    return scene, apply_scene(None, seesr, scene, model=base_model(unet))


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [
        (sampler, scheduler)
        for number, sampler in enumerate(SAMPLERS)
        for scheduler in ("seesr", SCHEDULERS[1 + number % (len(SCHEDULERS) - 1)])
    ],
)
def test_every_sampler_and_every_scheduler_runs(smallest: Any, sampler: str, scheduler: str) -> None:
    """All of SeeSR runs and gives a finite latent of the right shape. A sampler sees only a scheduler's sigmas.

    Each sampler runs with SeeSR's schedule and one other, so each scheduler runs with several samplers.
    """
    scene, (model, positive, negative) = smallest
    sigmas = sampler_sigmas(model, sampler, scheduler, 3, 1.0)
    result = sample(model, positive, negative, scene.latent, 0, 1.5, sampler, sigmas)["samples"]
    assert result.shape == scene.latent["samples"].shape
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "dpm_adaptive"])
def test_seed_per_image_gives_each_picture_the_result_of_a_single_run(smallest: Any, sampler: str) -> None:
    """Picture 1 of a batch at seed 7 gives the same result as a single picture at seed 8. By default it does not.

    For a single picture ComfyUI draws all noise itself. dpm_adaptive is left out, because it chooses its steps for the
    batch as a whole. Only the noise matters, so a formula stands in for the UNet.
    """
    _, (model, *_rest) = smallest
    model = model.clone()
    model.set_model_unet_function_wrapper(lambda apply, arguments: (3 * arguments["input"]).sin())
    conds = [[torch.zeros(1, 77, 64), {}]]
    sigmas = sampler_sigmas(model, sampler, "normal", 4, 1.0)
    pictures = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))

    def sampled(latent: Tensor, seed: int, per_image: bool) -> Tensor:
        return sample(model, conds, conds, {"samples": latent}, seed, 1.0, sampler, sigmas, per_image)["samples"]

    per_image_result, shared = sampled(pictures, 7, True), sampled(pictures, 7, False)
    alone = torch.cat([sampled(pictures[:1], 7, False), sampled(pictures[1:], 8, False)])
    assert_alike(per_image_result, alone)
    assert (shared[1] - alone[1]).abs().max() > 10 * SAME * alone.std()


@pytest.mark.parametrize("per_image", [True, False])
def test_the_largest_seed_works(smallest: Any, per_image: bool) -> None:
    """The widget offers this seed. For the next picture the seed wraps around to 0."""
    _, (model, *_rest) = smallest
    conds = [[torch.zeros(1, 77, 64), {}]]
    latent = {"samples": torch.ones(2, 4, 4, 4)}
    result = sample(model, conds, conds, latent, SEEDS - 1, 1.0, "ddpm", seesr_sigmas(model, 2), per_image)
    assert torch.isfinite(result["samples"]).all()


def test_a_masked_latent_does_not_change_outside_its_mask(smallest: Any) -> None:
    """The tolerance is float32's rounding at the latent's scale. Inside the mask everything changes."""
    scene, (model, positive, negative) = smallest
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    latent = {**scene.latent, "noise_mask": mask}
    result = sample(model, positive, negative, latent, 0, 1.5, "euler", seesr_sigmas(model, 3))
    before, after = latent["samples"], result["samples"]
    torch.testing.assert_close(after[..., 2:], before[..., 2:], rtol=0, atol=1e-5)
    assert (after - before)[..., :2].abs().max() > 1e-2
    assert result["noise_mask"] is mask, "as ComfyUI's own samplers hand it on"


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde"])
def test_the_seed_decides_all_noise(smallest: Any, sampler: str) -> None:
    """The seed decides the noise of the start and of the steps: the same seed gives the same latent."""
    scene, (model, positive, negative) = smallest
    sigmas = seesr_sigmas(model, 3)
    first, again, other = (
        sample(model, positive, negative, scene.latent, seed, 1.5, sampler, sigmas)["samples"] for seed in (4, 4, 5)
    )
    torch.testing.assert_close(first, again, rtol=0, atol=1e-5)
    assert (first - other).abs().max() > 1e-2


def test_a_picture_of_a_batch_can_be_reproduced(smallest: Any) -> None:
    """Latent From Batch stores the picture's position in ``batch_index``, so the picture gets the same noise."""
    scene, (model, *_rest) = smallest
    conds = [[torch.zeros(1, 77, 64), {}]]
    sigmas, pictures = seesr_sigmas(model, 3), scene.latent["samples"].repeat(3, 1, 1, 1)
    whole = sample(model, conds, conds, {"samples": pictures}, 4, 1.0, "euler", sigmas)["samples"]
    latent = {"samples": pictures[2:], "batch_index": [2]}
    alone = sample(model, conds, conds, latent, 4, 1.0, "euler", sigmas)["samples"]
    torch.testing.assert_close(alone, whole[2:], rtol=0, atol=1e-4)  # sums in another order
    assert (alone - whole[:1]).abs().max() > 1e-2


@pytest.mark.parametrize("shape", [(1, 4, 4, 6), (1, 4, 8, 8)])
def test_a_latent_that_does_not_fit_the_hint_is_refused(smallest: Any, shape: tuple[int, ...]) -> None:
    """ComfyUI itself would stretch the hint."""
    _, (model, positive, negative) = smallest
    with pytest.raises(SeeSRError, match=rf"The latent is of 1 pictures of {shape[3] * 8}x{shape[2] * 8} pixels"):
        sample(model, positive, negative, {"samples": torch.ones(shape)}, 0, 1.0, "euler", seesr_sigmas(model, 2))


def test_a_latent_may_repeat_the_hints_pictures(smallest: Any) -> None:
    """Repeat Latent Batch makes several samples of one picture."""
    scene, (model, positive, negative) = smallest
    latent = {"samples": scene.latent["samples"].repeat(3, 1, 1, 1)}
    result = sample(model, positive, negative, latent, 0, 1.0, "euler", seesr_sigmas(model, 2))
    assert result["samples"].shape == latent["samples"].shape
