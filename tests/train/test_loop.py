"""Test the training loop: exact resuming, the learning rate schedule, wrong settings, a loss of NaN."""

from __future__ import annotations

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
from trainings import TINY_BASE

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
    """The documentation names these files as examples. One stage has two files."""
    training = read_training(file, file.stem.removesuffix("_256"))
    assert training.output.name == file.stem
    assert training.photos.manifest == Path("nano/photos.json")
