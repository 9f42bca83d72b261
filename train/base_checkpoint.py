"""Read a base model from one checkpoint file in the layout that Stable Diffusion 2 was published in.

`run.py download base` fetches such a file. diffusers converts the names; the sizes are read from the tensors, so that
nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffusers import AutoencoderKL, DDPMScheduler
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from ..seesr_modules.config import HEAD_WIDTH, TEXT_TOKENS, TRAIN_STEPS, Shapes, count_blocks, telling_shape
from ..seesr_modules.errors import SeeSRError
from ..seesr_modules.method.schedule import BETA_END, BETA_START
from ..seesr_modules.weights import open_weights
from ..seesr_modules.weights.checkpoint import InMemory, describe, require_fit

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.model."
_TEXT_BLOCKS = f"{TEXT}transformer.resblocks."
_WHAT = "The base"


def read_checkpoint_base(path: Path) -> tuple[dict[str, Tensor], CLIPTextModel, AutoencoderKL]:
    """Return the UNet's weights in diffusers' layout, the text encoder and the autoencoder.

    Raises:
        SeeSRError: The file is missing, damaged, or not a checkpoint of Stable Diffusion 2.
    """
    file = open_weights(path)
    shapes = file.shapes()
    if any(not any(name.startswith(prefix) for name in shapes) for prefix in (UNET, VAE, _TEXT_BLOCKS)):
        raise SeeSRError(
            f"base: {path} is {describe(shapes)}, not a whole checkpoint of Stable Diffusion 2: "
            "`python run.py download base` fetches one."
        )
    last = f"{_TEXT_BLOCKS}{count_blocks(sorted(shapes), _TEXT_BLOCKS) - 1}."
    parts = {
        prefix: dict(file.tensors(name for name in shapes if name.startswith(prefix) and not name.startswith(last)))
        for prefix in (UNET, VAE, TEXT)
    }
    unet = convert_ldm_unet_checkpoint(parts[UNET], {"layers_per_block": _count_layers(shapes)})
    return unet, _build_text(parts[TEXT]), _build_autoencoder(parts[VAE])


def sd2_schedule(prediction_type: str = "epsilon") -> DDPMScheduler:
    """Return the noise schedule of Stable Diffusion 2 base, or that of the models that predict v."""
    return DDPMScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        steps_offset=1,
        clip_sample=False,
    )


def _count_layers(shapes: Shapes) -> int:
    """Return the ResBlocks of a level: the blocks between the first convolution and the first downsampling."""
    blocks = count_blocks(sorted(shapes), f"{UNET}input_blocks.")
    downs = (number for number in range(blocks) if f"{UNET}input_blocks.{number}.0.op.weight" in shapes)
    return next(downs, blocks) - 1


def _build_text(tensors: dict[str, Tensor]) -> CLIPTextModel:
    """Build the text encoder. Stable Diffusion 2 leaves out the last layer."""
    shapes = InMemory(tensors).shapes()
    width = telling_shape(shapes, f"{TEXT}positional_embedding", 2, _WHAT)[1]
    layers = count_blocks(sorted(shapes), _TEXT_BLOCKS)
    words = telling_shape(shapes, f"{TEXT}token_embedding.weight", 2, _WHAT)[0]
    model = CLIPTextModel(clip_config(width, layers, words))
    given = convert_open_clip_checkpoint(
        model, {name: t for name, t in tensors.items() if "text_projection" not in name}
    )
    fill_text(model, {name.removeprefix("text_model."): tensor.float() for name, tensor in given.items()}, _WHAT)
    return model


def clip_config(width: int, layers: int, words: int) -> CLIPTextConfig:
    """Return the sizes of a text encoder of Stable Diffusion 2's kind."""
    return CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=4 * width,
        max_position_embeddings=TEXT_TOKENS,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD_WIDTH,
        hidden_act="gelu",
        eos_token_id=words - 1,
    )


def fill_text(model: CLIPTextModel, tensors: Mapping[str, Tensor], what: str) -> None:
    """Load the weights of a text encoder, named without ``text_model.``, which transformers 5 no longer writes.

    Raises:
        SeeSRError: Weights are missing or have another shape.
    """
    own = {name.removeprefix("text_model."): name for name, _ in model.named_parameters()}
    _fill(model, {own[name]: tensor for name, tensor in tensors.items() if name in own}, what)


def _build_autoencoder(tensors: dict[str, Tensor]) -> AutoencoderKL:
    shapes = {name.removeprefix(VAE): tuple(tensor.shape) for name, tensor in tensors.items()}
    names = sorted(shapes)
    levels = count_blocks(names, "encoder.down.")
    widths = [telling_shape(shapes, f"encoder.down.{i}.block.0.conv2.weight", 4, _WHAT)[0] for i in range(levels)]
    model = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=count_blocks(names, "encoder.down.0.block."),
        latent_channels=telling_shape(shapes, "post_quant_conv.weight", 4, _WHAT)[0],
    )
    given = convert_ldm_vae_checkpoint(tensors, model.config)
    _fill(model, {name: tensor.float() for name, tensor in given.items()}, _WHAT)
    return model


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    require_fit(wanted, InMemory(tensors).shapes(), {name: name for name in tensors}, what)
    model.load_state_dict(dict(tensors), strict=False)
