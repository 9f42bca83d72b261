"""Test the training loop: exact resuming, the learning rate schedule, wrong settings, a loss of NaN."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.nano.autoencoder import PatchAutoencoder
from seesr_pack.seesr_modules.nano.file import NANO_FILE
from seesr_pack.train.base_folder import save_linear
from seesr_pack.train.config import Optimisation, Training, read_training
from seesr_pack.train.loop import TrainingStage, train
from seesr_pack.train.stages import build
from seesr_pack.train.steps import learning_rate
from torch import Tensor
from trainings import TINY_BASE, TINY_RAM

Settings = Callable[..., Training]


@pytest.fixture
def autoencoder(tmp_path: Path) -> Path:
    """A fitted linear autoencoder on disk."""
    linear = PatchAutoencoder(8)
    linear.fit(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    save_linear(tmp_path / "vae", linear)
    return tmp_path / "vae"


def interrupt_after(stage: TrainingStage, after: int) -> TrainingStage:
    """Make the stage raise KeyboardInterrupt after ``after`` losses; return the stage."""
    forward, left = stage.forward, iter(range(after))

    def forward_or_stop(batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return forward(batch, generator)

    stage.forward = forward_or_stop  # type: ignore[method-assign]
    return stage


def test_an_interrupted_run_continues_to_the_same_bits(settings: Settings, autoencoder: Path) -> None:
    """The interruption is in the fifth step, after a checkpoint at the third. The result equals that of a whole run."""
    model = {**TINY_BASE, "autoencoder": autoencoder, "degraded_share": 0.3}
    options = {"steps": 6, "save_every": 3, "accumulation": 2, "final_learning_rate": 1e-4, "ema_decay": 0.9}
    whole = settings("base", model, **options)
    train(build(whole), whole)
    interrupted = settings("base", model, **options)
    with pytest.raises(KeyboardInterrupt):
        train(interrupt_after(build(interrupted), after=9), interrupted)
    train(build(interrupted), interrupted)
    for name in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        expected, found = (load_file(run.output / name) for run in (whole, interrupted))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    states = [torch.load(run.output / "checkpoint.pt", weights_only=True) for run in (whole, interrupted)]
    assert all(torch.equal(a, b) for a, b in zip(*map(_tensors, states), strict=True))


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def test_the_moving_average_is_saved(settings: Settings, autoencoder: Path) -> None:
    """The checkpoint holds the current weights, the saved model holds their moving average."""
    training = settings("base", {**TINY_BASE, "autoencoder": autoencoder}, ema_decay=0.5, steps=3)
    train(build(training), training)
    saved = load_file(training.output / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"]
    state = torch.load(training.output / "checkpoint.pt", weights_only=True)
    averaged = state["average"]["shadow_params"][list(state["weights"]).index("unet.conv_in.weight")]
    assert torch.equal(saved, averaged)
    assert not torch.equal(saved, state["weights"]["unet.conv_in.weight"])


def test_a_checkpoint_of_another_model_is_refused(settings: Settings, autoencoder: Path) -> None:
    """The message names the file."""
    model = {**TINY_BASE, "autoencoder": autoencoder}
    training = settings("base", model, steps=1)
    train(build(training), training)
    other = settings("base", {**model, "text_layers": 2}).model_copy(update={"output": training.output})
    with pytest.raises(SeeSRError, match=r"checkpoint\.pt was trained with other .*model\.text_layers 1, now 2\. Give"):
        train(build(other), other)
    file = training.output / "checkpoint.pt"
    state = torch.load(file, weights_only=True)
    del state["settings"]  # as checkpoints from before have it
    torch.save(state, file)
    with pytest.raises(SeeSRError, match=r"checkpoint\.pt is the checkpoint of another model"):
        train(build(other), other)


def test_a_nan_loss_stops_the_run(settings: Settings, autoencoder: Path) -> None:
    """The message says what to do, and no checkpoint is written."""
    training = settings("base", {**TINY_BASE, "autoencoder": autoencoder}, save_every=1)
    stage = build(training)
    with torch.no_grad():
        next(p for p in stage.parameters() if p.requires_grad).fill_(torch.nan)
    with pytest.raises(SeeSRError, match="lower learning_rate"):
        train(stage, training)
    assert not (training.output / "checkpoint.pt").exists()


def test_the_learning_rate_warms_up_and_falls() -> None:
    """Warm-up is linear, then a cosine falls to the final rate. Without a final rate the rate stays constant."""
    options = Optimisation(steps=110, batch=1, learning_rate=1.0, final_learning_rate=0.2, warmup=10)
    rates = [learning_rate(options, step) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[60] == pytest.approx(0.6)
    assert rates[110] == pytest.approx(0.2)
    assert learning_rate(options.model_copy(update={"final_learning_rate": 0.0}), 100) == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output: [", "not a readable YAML"),
        ("- 1", "holds no settings"),
        ("output: x\nphotos: {folder: x}\noptimisation: {steps: 0, batch: 1, learning_rate: 1}", "optimisation.steps"),
        (
            "output: x\nphotos: {folder: x, crop: 3}\noptimisation: {steps: 1, batch: 1, learning_rate: 1}",
            "photos.crop",
        ),
        ("output: x\nphotos: {folder: x}", "optimisation"),
    ],
)
def test_wrong_settings_are_refused(text: str, message: str, tmp_path: Path) -> None:
    """One sentence names the file and the setting."""
    file = tmp_path / "autoencoder.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(SeeSRError, match=message):
        read_training(file, "autoencoder")


@pytest.mark.parametrize(
    ("setting", "wrong", "right"),
    [
        ("steps", 0, 1),
        ("batch", 0, 1),
        ("accumulation", 0, 1),
        ("learning_rate", 0, 1e-9),
        ("final_learning_rate", -1e-9, 0),
        ("weight_decay", -0.1, 0),
        ("warmup", -1, 0),
        ("max_norm", 0, 0.1),
        ("ema_decay", 1, 0.9999),
        ("ema_decay", -0.1, 0),
        ("precision", "fp8", "fp16"),
        ("workers", -1, 0),
        ("log_every", 0, 1),
        ("save_every", 0, 1),
        ("sample_every", 0, 1),
    ],
)
def test_settings_have_bounds(settings: Settings, setting: str, wrong: object, right: object) -> None:
    assert getattr(settings("autoencoder", {"channels": 8}, **{setting: right}).optimisation, setting) == right
    with pytest.raises(SeeSRError, match=rf"autoencoder\.yaml: the setting optimisation\.{setting} is wrong"):
        settings("autoencoder", {"channels": 8}, **{setting: wrong})


def test_omitted_settings_have_defaults(settings: Settings) -> None:
    """Published values are the defaults: the paper's optimiser has no decay, no warm-up and a maximum norm of 1."""
    found = settings("autoencoder", {"channels": 8}).optimisation
    given = {"steps": 2, "batch": 2, "learning_rate": 1e-3, "log_every": 1}
    assert found.model_dump() == {
        **given,
        "accumulation": 1,
        "final_learning_rate": 0,
        "weight_decay": 0,
        "warmup": 0,
        "max_norm": 1,
        "ema_decay": 0.999,
        "precision": "no",
        "seed": 0,
        "workers": 0,
        "gradient_checkpointing": False,
        "save_every": 1000,
        "sample_every": 1000,
    }


@pytest.mark.parametrize("file", sorted(NANO_FILE.parent.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_settings_of_nano_are_valid(file: Path) -> None:
    """The documentation names these files as examples. One stage has three files."""
    training = read_training(file, {"seesr_256": "seesr", "finetune": "seesr"}.get(file.stem, file.stem))
    assert training.output.name in (file.stem, "my-nano")
    assert training.photos.manifest == (None if file.stem == "finetune" else Path("nano/photos.json"))


def test_wrong_settings_are_told_in_one_sentence(tmp_path: Path) -> None:
    """All of them, with their whole names, and the setting that is meant."""
    file = tmp_path / "seesr.yaml"
    file.write_text(
        "output: x\nphoto: 1\nphotos: {folder: x, crop_pix: 64}\n"
        "optimisation: {stepz: 5, steps: 2, batch: 1, learning_rate: 1}\nmodel: {rom: x}",
        "utf-8",
    )
    with pytest.raises(SeeSRError) as told:
        read_training(file, "seesr")
    for words in (
        "the setting model.base is missing",
        "the setting model.ram is missing",
        "there is no setting model.rom: model.ram is meant",
        "there is no setting photo: photos is meant",
        "there is no setting photos.crop_pix: photos.crop_px is meant",
        "there is no setting optimisation.stepz: optimisation.steps is meant",
    ):
        assert words in str(told.value)
    with pytest.raises(SeeSRError, match=r"seesr\.yaml: output is not a group of settings, so output\.x cannot be set"):
        read_training(file, "seesr", {"output.x": 1})


@pytest.mark.parametrize(
    ("stage", "model", "photos", "named"),
    [
        ("autoencoder", {"channels": 300}, {}, r"model\.channels"),
        ("autoencoder", {}, {"crop_px": 100}, r"photos\.crop_px"),
        ("base", {"autoencoder": "x", **TINY_BASE, "model_channels": 100}, {}, r"model\.model_channels"),
        ("base", {"autoencoder": "x", **TINY_BASE, "text_width": 100}, {}, r"model\.text_width"),
        ("base", {"autoencoder": "x", **TINY_BASE, "channel_mult": []}, {}, r"model\.channel_mult"),
        ("seesr", {"base": "x", "ram": "y", "stem_widths": [16, 32]}, {}, r"model\.stem_widths"),
        ("ram", {**TINY_RAM, "num_heads": [2]}, {}, "depths and num_heads need one number each"),
        ("ram", {**TINY_RAM, "num_heads": [2, 5]}, {}, "5 heads do not divide the width 32"),
    ],
)
def test_sizes_that_no_network_can_have_are_refused_before_it_is_built(
    stage: str, model: dict[str, object], photos: dict[str, object], named: str, tmp_path: Path
) -> None:
    optimisation = {"steps": 1, "batch": 1, "learning_rate": 1}
    values = {"output": "x", "photos": {"folder": "x", **photos}, "optimisation": optimisation, "model": model}
    (tmp_path / "x.yaml").write_text(json.dumps(values), "utf-8")
    with pytest.raises(SeeSRError, match=named):
        read_training(tmp_path / "x.yaml", stage)
