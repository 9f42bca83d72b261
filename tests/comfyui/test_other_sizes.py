"""SeeSRs of other widths, depths and levels, whose sizes come from the checkpoint, against the diffusers denoiser."""

from __future__ import annotations

import builders
import pytest
import torch
from seesr_pack.bench import denoising_step as steps
from seesr_pack.seesr_modules.config import EncoderSizes
from seesr_pack.train.denoiser import SeeSRDenoiser

SIZES = {
    "two levels, text in the first": EncoderSizes(4, 64, (1, 3), (1, 1), (1, 0), 1, 96),
    "three levels, wider": EncoderSizes(4, 128, (1, 1, 2), (2, 2, 2), (1, 1, 1, 1, 0, 0), 1, 48),
    "three blocks a level": EncoderSizes(4, 64, (1, 2), (3, 3), (1, 1, 1, 0, 0, 0), 1, 64),
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_a_step_equals_diffusers(sizes: EncoderSizes) -> None:
    """For both conds, epsilon differs by float32's rounding at most, as for the golden sizes."""
    with torch.device("meta"):
        shapes = SeeSRDenoiser(sizes, soft_prompt_dim=40).state_dicts()
    synth = builders.load_synth(builders.GOLDEN)
    weights = {
        part: synth.synthetic_state_dict({name: tuple(t.shape) for name, t in tensors.items()})
        for part, tensors in shapes.items()
    }
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    inputs = steps.StepInputs(
        latent=random(1, sizes.in_channels, 8, 12),
        positive=random(1, 77, sizes.context_dim),
        negative=random(1, 77, sizes.context_dim),
        soft_prompt=random(1, 37, 40),
        hint=random(1, 3, 64, 96).sigmoid(),
    )
    base, seesr = steps.load_comfyui_model(weights, torch.float32)
    denoised = torch.cat(steps.prepare_comfyui_step(base, seesr, inputs)())
    plain = steps.prepare_plain_steps(weights, inputs, torch.float32)
    expected = plain.whole()
    sigma = base.model.model_sampling.sigma(torch.tensor(float(inputs.timestep)))
    epsilon = (inputs.latent * torch.sqrt(1 + sigma**2) - denoised) / sigma
    assert (epsilon - expected).abs().max() <= 1e-4 * expected.std()
    mixed = torch.cat(steps.prepare_comfyui_step(base, seesr, inputs, steps.OtherControl(plain.controlnet))())
    assert (mixed - denoised).abs().max() <= 1e-4 * denoised.std(), "diffusers' ControlNet in ComfyUI's UNet"
