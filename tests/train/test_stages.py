"""Train each stage from scratch on synthetic photographs: the loss falls, and the saved files load."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from seesr_pack.seesr_modules.dape.tags import read_vocabulary, tag_files
from seesr_pack.seesr_modules.dape.weights import load_dape
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.weights import open_weights
from seesr_pack.seesr_modules.weights.checkpoint import unet_image_attention_names
from seesr_pack.train.base_folder import load_base
from seesr_pack.train.config import Training
from seesr_pack.train.loop import TrainingStage, train
from seesr_pack.train.pairs import Pairs
from seesr_pack.train.stages import build
from torch import Tensor
from torch.nn.functional import avg_pool2d
from trainings import TINY_BASE, TINY_RAM, TINY_SEESR

STEPS = 30


def train_briefly(stage: TrainingStage, steps: int = STEPS, rate: float = 3e-3) -> float:
    """Train on one fixed batch with fixed draws; return last loss / first loss."""
    dataset = stage.pairs
    pairs = [dataset[index] for index in range(4)]
    batch: dict[str, Tensor] = {name: torch.stack([pair[name] for pair in pairs]) for name in pairs[0]}
    optimizer = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        loss = stage(batch, torch.Generator().manual_seed(0))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses[-1] / losses[0]


@pytest.fixture(scope="module")
def trained(settings: Callable[..., Training]) -> dict[str, Training]:
    """Every stage after a few steps. Each stage uses the output of the one before."""
    runs: dict[str, Training] = {}

    def run(stage: str, model: dict, **options: object) -> Path:
        runs[stage] = settings(stage, model, **options)
        train(build(runs[stage]), runs[stage])
        return runs[stage].output

    ram = run("ram", TINY_RAM) / "ram.safetensors"
    dape = run("dape", {"ram": ram}) / "DAPE.pth"
    vae = run("autoencoder", {"channels": 8, "refiner_width": 8}) / "vae"
    base = run("base", {**TINY_BASE, "autoencoder": vae, "degraded_share": 0.5}, sample_every=2)
    models = {"base": base, "ram": ram, "dape": dape}
    seesr = run("seesr", {**TINY_SEESR, **models, "draws": 2, "train_base": True}, sample_every=2)
    run("decoder", {**models, "seesr": seesr, "autoencoder": vae, "adversary_width": 8})
    return runs


def test_a_chain_of_stages_writes_what_the_nodes_load(trained: dict[str, Training]) -> None:
    """The layouts are the published ones: RAM, a LoRA-only DAPE.pth, a base folder, unet and controlnet."""
    output = {stage: training.output for stage, training in trained.items()}
    ram, dape = open_weights(output["ram"] / "ram.safetensors"), open_weights(output["dape"] / "DAPE.pth")
    assert all(".lora_" in name for name in dape)
    classes = load_dape(ram).config.num_classes
    assert load_dape(ram, dape)(torch.rand(1, 3, 20, 24)).logits.shape == (1, classes)
    for stage in ("ram", "dape"):
        files = tag_files(output[stage])
        assert files is not None
        assert len(read_vocabulary(**files, num_classes=classes).words("chinese")) == classes
    schedule = load_base(output["base"]).schedule.config
    assert (schedule.prediction_type, schedule.clip_sample, schedule.steps_offset) == ("v_prediction", False, 1)
    assert (schedule.beta_schedule, schedule.beta_start, schedule.beta_end) == ("scaled_linear", 0.00085, 0.012)
    assert unet_image_attention_names(open_weights(output["seesr"] / "unet").shapes())
    assert "controlnet_cond_embedding.conv_in.weight" in open_weights(output["seesr"] / "controlnet")
    for stage in ("base", "seesr"):
        assert (output[stage] / "samples" / "000002.png").stat().st_size > 0
    with (output["seesr"] / "log.csv").open(encoding="utf-8") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2"]


def test_seesr_continues_from_published_folders(trained: dict[str, Training]) -> None:
    """Fine-tuning starts from the given SeeSR, including its text encoder."""
    first_run = trained["seesr"]
    changed = {"seesr": first_run.output, "train_base": False}
    stage = build(first_run.model_copy(update={"model": first_run.model.model_copy(update=changed)}))
    for part in ("unet", "controlnet"):
        file = open_weights(first_run.output / part)
        own = stage.denoiser.state_dicts()[part]
        assert all(torch.equal(own[name], tensor) for name, tensor in file.tensors(file.shapes()))
    written = load_file(first_run.output / "text_encoder" / "model.safetensors")
    assert all(torch.equal(stage.text.model.state_dict()[name], tensor) for name, tensor in written.items())
    assert all(
        ".image_attentions." in name or name.startswith("denoiser.controlnet.")
        for name, p in stage.named_parameters()
        if p.requires_grad
    )


def test_clean_pictures_are_sharpened_on_request(trained: dict[str, Training]) -> None:
    """Only the clean picture changes, and all random draws stay the same."""
    settings = trained["ram"].photos
    plain, sharp = (Pairs(settings.model_copy(update={"sharpen": on}), 0)[1] for on in (False, True))
    assert torch.equal(plain["labels"], sharp["labels"])
    assert not torch.equal(plain["clean"], sharp["clean"])
    assert plain["clean"].float().std() < sharp["clean"].float().std()


def test_a_share_of_the_pairs_has_milder_damage(trained: dict[str, Training]) -> None:
    """The clean pictures stay the same. With milder damage to all pairs, the mean damage is smaller."""
    settings = trained["ram"].photos

    def pairs(share: float) -> list[dict[str, Tensor]]:
        found = Pairs(settings.model_copy(update={"mild_share": share}), 0)
        return [found[index] for index in range(24)]

    def damage(found: list[dict[str, Tensor]]) -> float:
        clean, degraded = (torch.stack([pair[name] for pair in found]).float() for name in ("clean", "degraded"))
        return float((avg_pool2d(clean, 4) - degraded).square().mean())

    full, mild, some = pairs(0), pairs(1), pairs(0.5)
    assert all(torch.equal(a["clean"], b["clean"]) for a, b in zip(full, mild, strict=True))
    assert damage(mild) < 0.7 * damage(full)
    assert 4 < sum(torch.equal(a["degraded"], b["degraded"]) for a, b in zip(full, some, strict=True)) < 20


def test_each_picture_may_be_drawn_more_than_once(trained: dict[str, Training]) -> None:
    """Two draws give two noises and timesteps for each picture. The pictures are repeated in their order."""
    stage = build(trained["seesr"])
    latents = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 8, 4, 4)
    timesteps, noisy, expected = stage.add_noise(latents, torch.Generator().manual_seed(0))
    assert len(timesteps) == len(noisy) == len(expected) == 6
    assert timesteps[:3].tolist() != timesteps[3:].tolist()
    assert stage.repeat(latents)[:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1, 2]


def test_decoder_and_adversary_learn_against_each_other(trained: dict[str, Training]) -> None:
    """The adversary's own loss has no gradient for the decoder. Deceiving adds no gradient for the adversary."""
    adversary = build(trained["decoder"]).adversary
    fake, true = (torch.randn(2, 3, 16, 16) for _ in range(2))
    fake.requires_grad_(True)
    adversary.hinge_loss(fake, true, 0.0).backward()
    assert fake.grad.abs().sum() == 0
    assert sum(parameter.grad.abs().sum() for parameter in adversary.parameters()) > 0
    adversary.zero_grad()
    fake.grad = None
    adversary.eval()  # keeps the vectors of the spectral norm unchanged
    adversary.hinge_loss(fake, true, 0.0).backward()
    plain = [parameter.grad.clone() for parameter in adversary.parameters()]
    adversary.zero_grad()
    adversary.hinge_loss(fake, true, 1.0).backward()
    assert fake.grad.abs().sum() > 0
    assert all(torch.equal(a, b.grad) for a, b in zip(plain, adversary.parameters(), strict=True))


@pytest.mark.parametrize(
    ("stage", "changes", "count"),
    [
        ("decoder", {}, 1),
        ("decoder", {"sampled_share": 0.0}, 2),
        ("decoder", {"sampled_share": 1.0}, 1),
        ("ram", {}, 1),
    ],
)
def test_a_batch_without_one_of_its_two_parts_is_trained_on(
    stage: str, changes: dict[str, float], count: int, trained: dict[str, Training]
) -> None:
    """One picture cannot be halved, and a share may be none or all."""
    training = trained[stage]
    built = build(training.model_copy(update={"model": training.model.model_copy(update=changes)}))
    pairs = [built.pairs[index] for index in range(count)]
    batch = {name: torch.stack([pair[name] for pair in pairs]) for name in pairs[0]}
    loss = built(batch, torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.isfinite()
    assert any(p.grad is not None and p.grad.any() for p in built.parameters() if p.requires_grad)


def test_photographs_without_labels_get_the_tags_of_ram(trained: dict[str, Training]) -> None:
    """Any folder of pictures works for fine-tuning: RAM's tags of the clean picture become the text."""
    plain = trained["seesr"].photos.model_copy(update={"manifest": None})
    stage = build(trained["seesr"].model_copy(update={"photos": plain}))
    batch = {name: tensor[None] for name, tensor in stage.pairs[0].items()}
    (words,) = stage.tag_writer(batch["clean"] / 255)
    with torch.no_grad():
        logits = stage.tag_writer.ram(batch["clean"] / 255).logits[0]
    english, thresholds = stage.tag_writer._vocabulary.english, torch.tensor(stage.tag_writer._vocabulary.thresholds)
    wanted = [word for word, on in zip(english, logits.sigmoid() > thresholds, strict=True) if on]
    assert words == ", ".join(wanted) and english == tuple(word for word, _ in build(trained["seesr"]).pairs.vocabulary)
    stage(batch, torch.Generator().manual_seed(0)).backward()
    wrong_model = trained["seesr"].model.model_copy(update={"ram": trained["dape"].output / "DAPE.pth"})
    with pytest.raises(SeeSRError, match=r"RAM file 'DAPE\.pth' is DAPE's LoRA parts"):
        build(trained["seesr"].model_copy(update={"photos": plain, "model": wrong_model}))


@pytest.mark.parametrize(
    ("stage", "factor"), [("ram", 0.5), ("dape", 0.97), ("autoencoder", 0.9), ("base", 0.5), ("decoder", 0.9)]
)
def test_the_loss_falls(stage: str, factor: float, trained: dict[str, Training]) -> None:
    """Train on one batch with fixed noise, where a working gradient halves the loss.

    LoRA and the refiner can reduce the loss only a little: the teacher's own uncertainty and the noise remain. The
    decoder is trained without its adversary, whose loss does not fall.
    """
    torch.manual_seed(1)
    training = trained[stage]
    if stage == "decoder":
        alone = training.model.model_copy(update={"adversary_weight": 0.0})
        training = training.model_copy(update={"model": alone})
    assert train_briefly(build(training)) < factor


def test_the_loss_of_seesr_falls_with_the_base_frozen(trained: dict[str, Training]) -> None:
    """ControlNet and image attention alone can learn the batch."""
    frozen = trained["seesr"].model.model_copy(update={"train_base": False})
    stage = build(trained["seesr"].model_copy(update={"model": frozen}))
    assert train_briefly(stage) < 0.8
