"""Compare the arithmetic of the training loop, on a stage with one small weight, with the same steps by hand."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel
from linear_stage import OPTIONS, SAVED, START, LinearStage, gradient
from PIL import Image
from seesr_pack.train.checkpoint import CHECKPOINT
from seesr_pack.train.config import Training
from seesr_pack.train.loop import train
from seesr_pack.train.progress import LOG
from seesr_pack.train.run import Run
from torch import Tensor, nn


def expected_weights(stage: LinearStage, options: dict[str, Any], steps: int) -> tuple[Tensor, Tensor]:
    """Repeat the steps of a newly trained stage, from its recorded draws; return the weight and its moving average."""
    weight = nn.Parameter(torch.tensor(START))
    optimizer = torch.optim.AdamW([weight], weight_decay=options["weight_decay"])
    average, accumulation = torch.tensor(START), options["accumulation"]
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = options["learning_rate"] * min(1, (step + 1) / options["warmup"])
        inputs = zip(stage.seen, stage.draws, strict=True)
        each = [gradient(*pair) for pair in list(inputs)[step * accumulation : (step + 1) * accumulation]]
        weight.grad = torch.stack(each).mean(0)
        weight.grad *= min(1, options["max_norm"] / float(weight.grad.norm()))
        optimizer.step()
        # Early averages forget faster, otherwise the starting weights would dominate for long.
        decay = 0 if step == 0 else min(options["ema_decay"], (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight.detach()
    return weight.detach(), average


@pytest.fixture
def linear(settings: Callable[..., Training]) -> Callable[..., Training]:
    """Return a function that makes settings for LinearStage, which ignores the settings' model."""
    model = {"channels": 8}
    return lambda **changes: settings("autoencoder", model, **{**OPTIONS, **changes})


def test_steps_and_average_follow_their_definition(linear: Callable[..., Training]) -> None:
    """Gradients are accumulated and clipped, weights decay, the rate warms up. float32 rounding is allowed for."""
    training, stage = linear(), LinearStage()
    train(stage, training)
    weight, average = expected_weights(stage, OPTIONS, OPTIONS["steps"])
    state = torch.load(training.output / CHECKPOINT, weights_only=True)
    assert state["step"] == OPTIONS["steps"]
    assert set(state) == {"step", "weights", "optimizer", "average", "scaler", "kept", "settings", "row", "loss"}
    torch.testing.assert_close(state["weights"]["weight"], weight, rtol=1e-5, atol=1e-6)
    saved = torch.load(training.output / SAVED, weights_only=True)
    torch.testing.assert_close(saved, average, rtol=1e-5, atol=1e-6)
    assert torch.equal(stage.weight.detach(), saved), "after training the stage has the averaged weights"
    assert min((saved - weight).abs().max(), (saved - torch.tensor(START)).abs().max()) > 1e-2
    assert set(state["weights"]) == {"weight"}, "what is frozen is not kept"


def test_without_an_average_the_weights_themselves_are_saved(linear: Callable[..., Training]) -> None:
    training, stage = linear(ema_decay=0), LinearStage()
    train(stage, training)
    weight, _ = expected_weights(stage, OPTIONS, OPTIONS["steps"])
    saved = torch.load(training.output / SAVED, weights_only=True)
    torch.testing.assert_close(saved, weight, rtol=1e-5, atol=1e-6)
    assert torch.load(training.output / CHECKPOINT, weights_only=True)["average"] is None


def test_every_picture_is_seen_once_with_its_own_draws(linear: Callable[..., Training]) -> None:
    """Pictures come in order. Another seed gives other draws."""
    stage, other = LinearStage(), LinearStage()
    train(stage, linear())
    train(other, linear(seed=8))
    assert stage.seen == [[2.0 * part, 2.0 * part + 1] for part in range(16)]
    assert len(set(stage.draws)) == 16
    assert not set(stage.draws) & set(other.draws)


def test_a_run_continues_from_its_checkpoint(linear: Callable[..., Training]) -> None:
    """The second run takes the remaining steps with their own pictures and draws, and continues the log."""
    whole, first, second = LinearStage(), LinearStage(), LinearStage()
    train(whole, linear())
    short = linear(steps=3)
    train(first, short)
    longer = short.model_copy(update={"optimisation": short.optimisation.model_copy(update={"steps": 8})})
    train(second, longer)
    assert first.seen + second.seen == whole.seen
    assert first.draws + second.draws == whole.draws
    assert torch.equal(second.weight, whole.weight)
    assert [row["step"] for row in log(longer)] == ["3", "6", "8"]


def test_a_run_that_continues_has_each_part_of_its_state_where_a_new_run_has_it(
    linear: Callable[..., Training],
) -> None:
    """The device meta stands for a graphics card: the counters of steps stay on the CPU, all else is on the device."""
    training, stage, device = linear(), LinearStage(), torch.device("meta")
    train(LinearStage(), training)
    stage.to(device)
    optimizer, average = torch.optim.AdamW([stage.weight]), EMAModel([stage.weight], foreach=True)
    accelerator: Any = SimpleNamespace(device=device, is_main_process=False, scaler=None)
    Run(accelerator, training, stage, stage, optimizer, average).resume()
    (state,) = optimizer.state.values()
    assert {name: tensor.device.type for name, tensor in state.items()} == {
        "step": "cpu",
        "exp_avg": "meta",
        "exp_avg_sq": "meta",
    }
    assert float(state["step"]) == OPTIONS["steps"]
    assert [tensor.device.type for tensor in average.shadow_params] == ["meta"]


def log(training: Training) -> list[dict[str, str]]:
    """Return the rows of the log."""
    with (training.output / LOG).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_of_the_log_has_the_mean_loss_of_its_steps(linear: Callable[..., Training]) -> None:
    """There is a row for every third step and the last. The loss of a step is the mean of its parts."""
    training, stage = linear(learning_rate=1e-9, weight_decay=0), LinearStage()
    last = train(stage, training)
    losses = [
        float((torch.tensor(START) * gradient(*pair)).sum()) for pair in zip(stage.seen, stage.draws, strict=True)
    ]
    rows = log(training)
    assert list(rows[0]) == ["step", "loss", "learning_rate", "images_per_second"]
    assert [row["step"] for row in rows] == ["3", "6", "8"]
    expected = [sum(losses[first:end]) / (end - first) for first, end in ((0, 6), (6, 12), (12, 16))]
    assert [float(row["loss"]) for row in rows] == pytest.approx(expected, rel=1e-4)
    assert last == pytest.approx(expected[-1], rel=1e-4)
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([1e-9] * 3)
    assert all(float(row["images_per_second"]) > 0 for row in rows)


def test_sample_pictures_show_the_averaged_weights(linear: Callable[..., Training]) -> None:
    """A picture is saved at every fourth step. Values out of range are clamped."""
    training, stage = linear(), LinearStage()
    train(stage, training)
    files = sorted((training.output / "samples").iterdir())
    assert [file.name for file in files] == ["000004.png", "000008.png"]
    red, green, blue = np.asarray(Image.open(files[1]))[0, 0].tolist()
    assert (red, blue) == (255, 0)
    shown = float(stage.weight.detach()[0])
    assert 0.1 < shown < 0.9, "else a clamp would hide it"
    assert green == pytest.approx(255 * shown, abs=0.51), "rounded to 8 bits"


def test_saving_does_not_change_the_trained_weights(linear: Callable[..., Training]) -> None:
    """Saving at every step and saving at the end give the same weights."""
    often, seldom = linear(save_every=1, sample_every=1), linear(save_every=100, sample_every=100)
    states = []
    for training in (often, seldom):
        train(LinearStage(), training)
        states.append(torch.load(training.output / CHECKPOINT, weights_only=True)["weights"]["weight"])
    assert torch.equal(*states)


@pytest.mark.parametrize("enabled", [True, False])
def test_gradient_checkpointing_is_passed_on(linear: Callable[..., Training], enabled: bool) -> None:
    stage = LinearStage()
    train(stage, linear(steps=1, gradient_checkpointing=enabled))
    assert stage.checkpointing == enabled


def test_an_infinite_loss_stops_the_run_at_the_next_row(linear: Callable[..., Training]) -> None:
    """The message names the step."""
    stage = LinearStage()
    forward = stage.forward
    stage.forward = lambda *arguments: forward(*arguments) * (math.inf if len(stage.seen) == 8 else 1)  # type: ignore[method-assign]
    with pytest.raises(Exception, match=r"The loss is (nan|-?inf) after step 6: lower learning_rate"):
        train(stage, linear())
