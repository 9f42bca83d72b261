"""Nano, the model in the pack: ComfyUI computes the same as training did, and every part has an effect."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import comfy.model_management
import comfy.samplers
import pytest
import torch
from likeness import assert_alike
from seesr_pack.bench import denoising_step as steps
from seesr_pack.seesr_modules.comfyui.loading import nano
from seesr_pack.seesr_modules.comfyui.steps import photo_decoding
from seesr_pack.seesr_modules.comfyui.steps.apply import ApplySettings, apply_seesr
from seesr_pack.seesr_modules.comfyui.steps.embed import embed
from seesr_pack.seesr_modules.comfyui.steps.photo_decoding import decode_with_photo
from seesr_pack.seesr_modules.comfyui.steps.prompts import encode_texts
from seesr_pack.seesr_modules.comfyui.steps.reference import ReferenceSettings
from seesr_pack.seesr_modules.comfyui.steps.sampling import sample
from seesr_pack.seesr_modules.comfyui.steps.tagging import describe, tag
from seesr_pack.seesr_modules.comfyui.steps.vae import decode
from seesr_pack.seesr_modules.config import NEGATIVE_QUALITY, POSITIVE_QUALITY
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.degrade import degrade
from seesr_pack.seesr_modules.method.references import embedding, find_matches
from seesr_pack.seesr_modules.method.sizes import resize_bicubic
from seesr_pack.seesr_modules.nano.file import NANO_FILE, NanoFile, all_tensors
from seesr_pack.seesr_modules.weights import open_weights
from seesr_pack.train.text import TextEncoder
from skimage import data
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import CLIPTextConfig, CLIPTextModel

MAX_BYTES = 40e6


@pytest.fixture(scope="module")
def loaded() -> nano.Nano:
    return nano.load_nano()


@functools.cache
def photo() -> tuple[Tensor, Tensor]:
    """Return a photograph [1, 3, 256, 256] that nano never saw, and its degraded version, a quarter as large."""
    picture = torch.from_numpy(data.coffee()[:, 100:500]).permute(2, 0, 1)[None] / 255
    truth = interpolate(picture, (256, 256), mode="bicubic", antialias=True).clamp(0, 1)
    return truth, degrade(truth, torch.Generator().manual_seed(1))


def test_the_file_is_small_and_in_float16() -> None:
    """The file is small enough for the repository and for downloads of the pack."""
    assert NANO_FILE.stat().st_size <= MAX_BYTES
    assert all(tensor.dtype == torch.float16 for tensor in all_tensors(NanoFile().unet).values())


def test_a_step_equals_the_trained_denoiser(loaded: nano.Nano) -> None:
    """ComfyUI's UNet and ControlNet predict the same v as the diffusers denoiser, for both conds."""
    file = NanoFile()
    weights = {"unet": all_tensors(file.unet, torch.float32), "controlnet": all_tensors(file.controlnet, torch.float32)}
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    width = weights["unet"]["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1]
    inputs = steps.StepInputs(
        latent=random(1, loaded.vae.latent_channels, 8, 12),
        positive=random(1, 77, width),
        negative=random(1, 77, width),
        soft_prompt=describe(loaded.dape, [photo()[1]])[0],
        hint=random(1, 3, 64, 96).sigmoid(),
    )
    denoised = torch.cat(steps.prepare_comfyui_step(loaded.model, loaded.seesr, inputs)())
    expected = steps.prepare_plain_steps(weights, inputs, torch.float32).whole()
    sigma = loaded.model.model.model_sampling.sigma(torch.tensor(float(inputs.timestep)))
    noisy = inputs.latent * torch.sqrt(1 + sigma**2)
    # x0 = x / (sigma^2 + 1) - v sigma / sqrt(sigma^2 + 1), at the scale at which ComfyUI samples
    velocity = (noisy / (sigma**2 + 1) - denoised) * torch.sqrt(sigma**2 + 1) / sigma
    assert (velocity - expected).abs().max() <= 1e-4 * expected.std()


def test_the_text_encoder_equals_the_trained_one(loaded: nano.Nano) -> None:
    """Known and unknown words are compared with transformers' CLIP."""
    file = NanoFile()
    tensors = all_tensors(file.text_encoder, torch.float32)
    rows, width = tensors["embeddings.token_embedding.weight"].shape
    layers = sum(name.endswith("self_attn.q_proj.weight") for name in tensors)
    config = CLIPTextConfig(
        vocab_size=rows,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        hidden_act="gelu",
        eos_token_id=rows - 1,
    )
    model = CLIPTextModel(config)
    names = {name.removeprefix("text_model."): name for name in model.state_dict()}  # transformers 4 has the prefix
    model.load_state_dict({names[name]: tensor for name, tensor in tensors.items()})
    encoder = TextEncoder(model, torch.tensor(file.known_tokens)).eval()
    for text in ("", f"sky, tree, {POSITIVE_QUALITY}", "an accordion under water"):
        with torch.inference_mode():
            expected = encoder([text])
        found = loaded.clip.encode_from_tokens(loaded.clip.tokenize(text))
        assert (found - expected).abs().max() <= 1e-4 * expected.std(), text


@torch.inference_mode()  # ComfyUI runs its nodes so
def test_the_autoencoder_works_in_comfyui(loaded: nano.Nano) -> None:
    """Encoding and decoding, whole and in tiles, returns the picture with more than 28 dB."""
    pixels = photo()[0].movedim(1, -1)
    latent = loaded.vae.encode(pixels)
    assert latent.shape == (1, loaded.vae.latent_channels, 32, 32)
    assert 0.5 < latent.std() < 2
    assert (loaded.vae.encode_tiled(pixels, tile_x=128, tile_y=128, overlap=32) - latent).abs().max() < 0.2
    whole, tiled = loaded.vae.decode(latent), loaded.vae.decode_tiled(latent, tile_x=32, tile_y=32, overlap=8)
    assert (tiled - whole).abs().mean() < 0.01
    assert -10 * torch.log10((whole - pixels).square().mean()) > 28


def restore_photo(
    loaded: nano.Nano,
    tags: str | None = None,
    strength: float = 1.0,
    soft: float = 1.0,
    steps: int = 2,
    cfg: float = 1.5,
) -> Tensor:
    """Run the graph of seesr_nano on the degraded photo. If ``tags`` is None, use the tagger's tags."""
    small = photo()[1]
    tagging = tag(loaded.dape, small)
    words = ", ".join(found.word for found in tagging.tags[0]) if tags is None else tags
    positive = encode_texts(loaded.clip, [f"{words}, {POSITIVE_QUALITY}"], False)
    negative = encode_texts(loaded.clip, [NEGATIVE_QUALITY], False)
    start = embed(small, loaded.vae, 4.0, 256, "lr")
    settings = ApplySettings(strength, soft)
    model, positive, negative = apply_seesr(
        loaded.model, loaded.seesr, positive, negative, start.hint, tagging.soft_prompt, settings
    )
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "sgm_uniform", steps)
    latent = sample(model, positive, negative, {"samples": start.latent}, 1, cfg, "euler", sigmas)
    return loaded.vae.decode(latent["samples"])


def test_comfyui_can_offload_every_weight(loaded: nano.Nano) -> None:
    """Every layer casts its weights when it uses them, as --novram requires."""
    parts = {
        "model": loaded.model,
        "vae": loaded.vae.patcher,
        "dape": loaded.dape.patcher,
        "image attention": loaded.seesr.image_attention,
        "controlnet": loaded.seesr.controlnet.control_model_wrapped,
    }
    plain = {
        f"{part}: {name}"
        for part, patcher in parts.items()
        for name, module in patcher.model.named_modules()
        if module._parameters and not hasattr(module, "comfy_cast_weights")
    }
    assert plain == set()


def test_the_picture_is_closer_to_the_original_than_bicubic(loaded: nano.Nano) -> None:
    """One step predicts the mean of the likely photos.

    More steps would add likely details, which differ from this photo.
    """
    truth, small = photo()
    plain = interpolate(small, truth.shape[-2:], mode="bicubic").clamp(0, 1)
    found = restore_photo(loaded, steps=1, cfg=1.0).movedim(-1, 1)
    assert (found - truth).square().mean() < (plain - truth).square().mean()


def test_every_part_changes_the_picture(loaded: nano.Nano) -> None:
    """Without tags, soft prompt or ControlNet the picture changes. Without the ControlNet it is also worse."""
    whole = restore_photo(loaded)
    assert_alike(restore_photo(loaded), whole)
    for without in ({"tags": ""}, {"soft": 0.0}, {"strength": 0.0}):
        assert (restore_photo(loaded, **without) - whole).abs().mean() > 1e-3, without
    truth = photo()[0].movedim(1, -1)
    assert (whole - truth).square().mean() < 0.5 * (restore_photo(loaded, strength=0.0) - truth).square().mean()


def test_tags_of_a_photo_differ_from_those_of_noise(loaded: nano.Nano) -> None:
    """The tagger's output depends on the picture."""
    noise = torch.rand(photo()[1].shape, generator=torch.Generator().manual_seed(0))
    seen, nothing = (describe(loaded.dape, [picture])[1] for picture in (photo()[1], noise))
    assert (seen - nothing).abs().max() > 1
    assert [t.word for t in tag(loaded.dape, photo()[1]).tags[0]] != [t.word for t in tag(loaded.dape, noise).tags[0]]


def test_degraded_photos_find_their_originals_among_others(loaded: nano.Nano) -> None:
    """The originals are above the default of Reference, and all other photos are further away."""
    names = ("coffee", "astronaut", "chelsea", "rocket")
    originals = [torch.from_numpy(getattr(data, name)()).movedim(-1, 0)[None, :, :400, :400] / 255 for name in names]
    degraded = [
        degrade(interpolate(photo, (256, 256), mode="bicubic", antialias=True).clamp(0, 1), torch.Generator())
        for photo in originals
    ]
    clean, damaged = (embedding(describe(loaded.dape, photos)[0]) for photos in (originals, degraded))
    found = find_matches(damaged, clean[:, None], 1, ReferenceSettings().min_similarity)
    assert [match.photo for (match,) in found] == [0, 1, 2, 3]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SeeSRError, match="install the pack again"):
        nano.load_nano(tmp_path / "nano.safetensors")


@pytest.mark.parametrize("part", ["unet", "controlnet", "text_encoder", "vae", "dape"])
def test_broken_values_are_named(tmp_path: Path, part: str) -> None:
    """A single NaN in any part is reported with the name of its tensor."""
    file = open_weights(NANO_FILE)
    name = next(name for name in file if name.startswith(f"{part}.") and name.endswith(".bias"))
    start = 8 + int.from_bytes(NANO_FILE.read_bytes()[:8], "little")
    content = bytearray(NANO_FILE.read_bytes())
    at = start + json.loads(content[8:start])[name]["data_offsets"][0]
    content[at : at + 2] = b"\xff\x7f"
    (tmp_path / "nano.safetensors").write_bytes(content)
    with pytest.raises(SeeSRError, match=f"the tensor {name.removeprefix(f'{part}.')} has values that are NaN"):
        nano.load_nano(tmp_path / "nano.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction_type": None}, "says that it predicts '', not epsilon or v_prediction"),
        ({"prediction_type": "sample"}, "says that it predicts 'sample', not epsilon or v_prediction"),
        ({"known_tokens": None}, "the known_tokens in the header of nano.safetensors are not the tokens"),
        ({"known_tokens": "{"}, "the known_tokens in the header"),
        ({"known_tokens": '["a"]'}, "the known_tokens in the header"),
        ({"known_tokens": "[1, 2]"}, "the known_tokens in the header"),
        ({"known_tokens": "[" * 50_000}, "the known_tokens in the header"),
        ({"tags_english": None}, "has no words for its tagger's classes"),
        ({"tags_english": "{"}, "has no list under tags_english"),
        ({"seesr_nano": "2"}, "not a nano of this version"),
    ],
)
def test_a_damaged_header_is_named(tmp_path: Path, change: dict[str, str | None], message: str) -> None:
    rewrite_nano(tmp_path / "nano.safetensors", change, {})
    with pytest.raises(SeeSRError, match=message):
        nano.load_nano(tmp_path / "nano.safetensors")


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("vae.decoder.weight", "the autoencoder"),
        ("vae.encoder.weight", "The autoencoder"),
        ("vae.refiner.layers.0.weight", "The autoencoder"),
        ("unet.conv_in.weight", "nano's UNet does not take"),
        ("unet.conv_norm_out.bias", "the UNet"),
        ("text_encoder.final_layer_norm.bias", "nano's text encoder"),
        ("text_encoder.embeddings.token_embedding.weight", "the known_tokens"),
    ],
)
def test_a_missing_tensor_is_named(tmp_path: Path, name: str, named: str) -> None:
    rewrite_nano(tmp_path / "nano.safetensors", {}, {name: f"{name.partition('.')[0]}.other"})
    with pytest.raises(SeeSRError, match=named):
        nano.load_nano(tmp_path / "nano.safetensors")


def rewrite_nano(path: Path, metadata: dict[str, str | None], names: dict[str, str]) -> None:
    """Write nano with changed header texts (None removes one) and tensor names."""
    content = NANO_FILE.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    changed = {**header.pop("__metadata__"), **metadata}
    described = {names.get(name, name): entry for name, entry in header.items()}
    texts = {key: text for key, text in changed.items() if text is not None}
    coded = json.dumps({"__metadata__": texts, **described}).encode()
    path.write_bytes(len(coded).to_bytes(8, "little") + coded + content[start:])


def test_comfyui_has_the_workflows_sampler() -> None:
    workflow = (NANO_FILE.parents[1] / "workflows" / "api" / "seesr_nano.json").read_text("utf-8")
    assert any(f'"sampler_name": "{name}"' in workflow for name in comfy.samplers.KSampler.SAMPLERS)


@torch.inference_mode()
def test_the_decoder_reads_the_photo(loaded: nano.Nano) -> None:
    """With the photo, the result is truer than the plain enlargement; fidelity mixes it with the plain decoder's."""
    truth, small = photo()
    hint = resize_bicubic(small, 256, 256)
    latent = loaded.vae.encode(hint.movedim(1, -1))
    plain = decode(loaded.vae, latent)
    faithful, mixed = (decode_with_photo(loaded.vae, latent, None, hint, fidelity) for fidelity in (1.0, 0.5))
    assert (faithful - truth).square().mean() < (hint - truth).square().mean()
    assert (mixed - (faithful + plain) / 2).abs().mean() < 1e-3  # both are clamped
    assert torch.equal(decode_with_photo(loaded.vae, latent, None, hint, 0.0), plain)


@torch.inference_mode()
def test_the_decoder_with_the_photo_has_no_seams(loaded: nano.Nano, monkeypatch: pytest.MonkeyPatch) -> None:
    """In tiles the result is that of the whole: their overlap is wider than the decoder looks."""
    hint = resize_bicubic(photo()[1], 256, 256).repeat(1, 1, 2, 2)
    latent = loaded.vae.encode(hint.movedim(1, -1))
    whole = decode_with_photo(loaded.vae, latent, None, hint, 0.5)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_: 1.0)
    tiled = decode_with_photo(loaded.vae, latent, None, hint, 0.5)
    assert (tiled - whole).abs().max() < 0.02  # the decoder's margin ends within the 64 px of overlap


def test_only_nano_decodes_with_the_photo_alone(loaded: nano.Nano) -> None:
    """A hint at another VAE changes nothing."""
    assert photo_decoding.reads_photos(loaded.vae)
    assert not photo_decoding.reads_photos(object())
