"""A training that is stopped, killed, cut off by a full disk or started with other settings loses nothing."""

from __future__ import annotations

import csv
import errno
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from linear_stage import OPTIONS, SAVED, LinearStage
from safetensors.torch import save_file
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.train import command, output, progress, run
from seesr_pack.train.checkpoint import CHECKPOINT
from seesr_pack.train.config import Training
from seesr_pack.train.loop import train
from seesr_pack.train.output import WEIGHTS, claim_output, is_full_disk, require_room
from seesr_pack.train.progress import LOG, describe_left
from seesr_pack.train.run import StoppedError
from seesr_pack.train.workers import telling_worker_errors

ROOT = Path(__file__).resolve().parents[2]
Settings = Callable[..., Training]


@pytest.fixture
def linear(settings: Callable[..., Training]) -> Settings:
    """Return a function that makes settings for LinearStage, which ignores the settings' model."""
    return lambda **changes: settings("autoencoder", {"channels": 8}, **{**OPTIONS, **changes})


@pytest.fixture
def whole(linear: Settings) -> Training:
    """An uninterrupted run."""
    training = linear()
    train(LinearStage(), training)
    return training


def change(training: Training, **options: Any) -> Training:
    return training.model_copy(update={"optimisation": training.optimisation.model_copy(update=options)})


def weight(training: Training) -> torch.Tensor:
    found: torch.Tensor = torch.load(training.output / SAVED, weights_only=True)
    return found


def rows(training: Training) -> list[list[str]]:
    """Return the rows of the log, without the speed."""
    with (training.output / LOG).open(encoding="utf-8", newline="") as file:
        return [row[:3] for row in csv.reader(file)]


def signal_in_step(stage: LinearStage, step: int, number: int = signal.SIGINT) -> LinearStage:
    """Make the stage send this process a signal in a step, which it ends."""
    forward = stage.forward

    def forward_with_signal(batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        if len(stage.seen) == OPTIONS["accumulation"] * (step - 1):
            signal.raise_signal(number)
        return forward(batch, generator)

    stage.forward = forward_with_signal  # type: ignore[method-assign]
    return stage


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_saves_it(linear: Settings, whole: Training, number: int) -> None:
    """The log is as that of the uninterrupted run, though the stop is between two of its rows."""
    training, before = linear(), signal.getsignal(number)
    with pytest.raises(StoppedError, match="Stopped after step 5 of 8: the same command goes on"):
        train(signal_in_step(LinearStage(), 5, number), training)
    assert signal.getsignal(number) == before
    assert json.loads((training.output / WEIGHTS).read_text("utf-8")) == {"step": 5, "files": [SAVED]}
    second = LinearStage()
    train(second, training)
    assert len(second.seen) == 3 * OPTIONS["accumulation"]
    assert torch.equal(weight(training), weight(whole))
    assert rows(training) == rows(whole)


def test_a_second_signal_stops_at_once(linear: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seesr_pack.train.stopping.TOGETHER_S", 0.0)
    training, stage = linear(), signal_in_step(LinearStage(), 5)
    inner = stage.forward
    stage.forward = lambda *given: (inner(*given), stage.seen[8:] and signal.raise_signal(signal.SIGINT))[0]  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(stage, training)
    assert not isinstance(stopped.value, StoppedError)
    assert torch.load(training.output / CHECKPOINT, weights_only=True)["step"] == 3


def test_a_training_whose_launcher_was_killed_saves_and_stops(
    linear: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEESR_INSIDE", "1")
    parents = iter([7, 7, 7])
    monkeypatch.setattr("seesr_pack.train.stopping.os.getppid", lambda: next(parents, 1))
    with pytest.raises(StoppedError, match="Stopped after step 3 of 8"):
        train(LinearStage(), linear())
    monkeypatch.delenv("SEESR_INSIDE")
    train(LinearStage(), linear())


def test_the_command_says_where_it_stopped(
    linear: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    training = linear()
    monkeypatch.setattr(command, "build", lambda training: signal_in_step(LinearStage(), 5))
    assert command.main(["autoencoder", "--config", str(next(training.output.parent.glob("*.yaml")))]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "Stopped after step 5 of 8: the same command goes on."


@pytest.mark.parametrize("lost", [SAVED, WEIGHTS])
def test_weights_that_a_kill_prevented_are_written_by_the_next_start(
    linear: Settings, whole: Training, lost: str
) -> None:
    """Also where all steps are done. Without a kill nothing is written again."""
    expected = weight(whole)
    (whole.output / lost).unlink()
    (whole.output / "weights.part").mkdir()
    (whole.output / "checkpoint.pt.part").write_bytes(b"half")
    train(LinearStage(), whole)
    assert torch.equal(weight(whole), expected)
    assert not list(whole.output.glob("*.part"))
    (whole.output / SAVED).write_bytes(b"mine")
    train(LinearStage(), whole)
    assert (whole.output / SAVED).read_bytes() == b"mine"


def test_old_weights_beside_a_newer_checkpoint_are_replaced(linear: Settings, whole: Training) -> None:
    expected, file = weight(whole), whole.output / WEIGHTS
    file.write_text(json.dumps({"step": 6, "files": [SAVED]}), "utf-8")
    torch.save(torch.zeros(3), whole.output / SAVED)
    train(LinearStage(), whole)
    assert torch.equal(weight(whole), expected)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes of files")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_weights_can_be_read_by_whom_the_umask_lets(tmp_path: Path, mask: int, mode: int) -> None:
    """safetensors gives its files to their owner alone, whatever the umask is."""

    def write(folder: Path) -> None:
        (folder / "unet").mkdir()
        save_file({"a": torch.ones(1)}, folder / "unet" / "a.safetensors")
        (folder / "a.txt").write_text("a", "utf-8")

    before = os.umask(mask)
    try:
        output.write_weights(tmp_path, 1, write)
    finally:
        os.umask(before)
    for file in (tmp_path / "unet" / "a.safetensors", tmp_path / "a.txt"):
        assert oct(file.stat().st_mode & 0o777) == oct(mode)


def test_half_written_weights_never_have_their_names(linear: Settings) -> None:
    """The old ones stay where writing the new ones fails."""
    training = linear()
    stage, saves = LinearStage(), iter(range(9))

    def save(folder: Path) -> None:
        (folder / SAVED).write_bytes(b"half")
        if next(saves):
            raise KeyError("a fault of the stage")
        torch.save(stage.weight.detach().clone(), folder / SAVED)

    stage.save = save  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        train(stage, training)
    assert weight(training).shape == (3,)
    assert not list(training.output.glob("*.part"))


def full(*given: Any, **named: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["checkpoint", "weights", "log"])
def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays(
    linear: Settings, whole: Training, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    training, stage = linear(), LinearStage()
    train(LinearStage(), change(training, steps=3))
    with monkeypatch.context() as patched:
        if where == "checkpoint":
            patched.setattr(torch, "save", full)
        elif where == "weights":
            patched.setattr(stage, "save", full)
        else:
            patched.setattr(progress.Progress, "_add_row", full)
        with pytest.raises(SeeSRError, match=r"The disk of .* is full \([\d,]+ bytes free\): make room") as told:
            train(stage, training)
    assert "The checkpoint of step" in str(told.value)
    assert not list(training.output.glob("*.part"))
    train(LinearStage(), training)
    assert torch.equal(weight(training), weight(whole)) and rows(training) == rows(whole)


def test_room_is_checked_before_the_first_step(linear: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """For two saves, since the second is written beside the first; for one where no more follows."""
    asked: list[int] = []
    monkeypatch.setattr(run, "require_room", lambda folder, needed: asked.append(needed))
    stage = LinearStage()
    monkeypatch.setattr(stage, "forward", lambda *given: pytest.fail("a step"))
    for steps in (8, 3):
        with pytest.raises(BaseException, match="a step"):
            train(stage, linear(steps=steps))
    one = 4 * 3 * 4 + 3 * 4  # weights, average and two moments of three floats; the weights for use
    assert asked == [2 * one, one]


def test_too_little_room_is_said_in_bytes(tmp_path: Path) -> None:
    require_room(tmp_path, 1)
    with pytest.raises(
        SeeSRError, match=rf"The disk of .* has [\d,]+ bytes free, and saving needs {10**18:,}: make room"
    ):
        require_room(tmp_path, 10**18)


def test_a_full_disk_is_recognised_by_whatever_library_tells_it() -> None:
    inner = OSError(errno.ENOSPC, "full")
    outer = RuntimeError("unexpected pos 704 vs 598")
    outer.__context__ = inner
    assert is_full_disk(inner) and is_full_disk(outer)
    assert is_full_disk(Exception("I/O error: No space left on device (os error 28)"))
    assert not is_full_disk(RuntimeError("unexpected pos")) and not is_full_disk(OSError(errno.EACCES, "no"))


@pytest.mark.parametrize(
    "changes",
    [{"seed": 8}, {"ema_decay": 0.5}, {"ema_decay": 0.0}],
    ids=lambda changes: "".join(changes),
)
def test_settings_that_make_another_run_are_refused(whole: Training, changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(
        SeeSRError, match=rf"with other settings: optimisation\.{name} \S+, now \S+\. Give them the old"
    ):
        train(LinearStage(), change(whole, **changes))


def test_a_changed_precision_is_refused(whole: Training) -> None:
    file = whole.output / CHECKPOINT
    state = torch.load(file, weights_only=True)
    state["settings"]["optimisation"]["precision"] = "bf16"
    torch.save(state, file)
    with pytest.raises(SeeSRError, match=r"with other settings: optimisation\.precision bf16, now no\. Give"):
        train(LinearStage(), whole)


def test_other_photos_settings_are_refused_and_moved_photos_are_not(
    whole: Training, caplog: pytest.LogCaptureFixture
) -> None:
    other = whole.photos.model_copy(update={"crop_px": 64, "mild_share": 0.5})
    with pytest.raises(SeeSRError, match=r"photos\.crop_px 32, now 64; photos\.mild_share 0(\.0)?, now 0\.5"):
        train(LinearStage(), whole.model_copy(update={"photos": other}))
    moved = whole.photos.model_copy(update={"folder": Path("elsewhere")})
    with caplog.at_level(logging.INFO):
        train(LinearStage(), whole.model_copy(update={"photos": moved}))
    assert any(text.startswith("going on with changed settings: photos.folder ") for text in caplog.messages)


def test_a_changed_optimisation_goes_on_with_a_word_and_is_used(
    whole: Training, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint has the old weight decay, which must not come back."""
    with caplog.at_level(logging.INFO):
        train(LinearStage(), change(whole, steps=9, weight_decay=0.5, log_every=1))
    (said,) = [text for text in caplog.messages if text.startswith("going on")]
    assert said.removeprefix("going on with changed settings: ").split("; ") == [
        "optimisation.log_every 3, now 1",
        "optimisation.steps 8, now 9",
        "optimisation.weight_decay 0.3, now 0.5",
    ]
    state = torch.load(whole.output / CHECKPOINT, weights_only=True)
    assert state["optimizer"]["param_groups"][0]["weight_decay"] == 0.5


def test_a_checkpoint_without_settings_is_compared_by_its_average(whole: Training) -> None:
    """As those that older versions saved."""
    file = whole.output / CHECKPOINT
    state = torch.load(file, weights_only=True)
    for key in ("settings", "kept", "row", "loss"):
        del state[key]
    torch.save(state, file)
    train(LinearStage(), change(whole, steps=9))
    torch.save(state, file)
    with pytest.raises(SeeSRError, match=r"checkpoint\.pt has a moving average: set optimisation\.ema_decay as it was"):
        train(LinearStage(), change(whole, ema_decay=0.0))


@pytest.mark.parametrize("content", [b"", b"half a checkpoint"])
def test_a_damaged_checkpoint_is_named(whole: Training, content: bytes) -> None:
    (whole.output / CHECKPOINT).write_bytes(content)
    with pytest.raises(SeeSRError, match=r"checkpoint\.pt is damaged \(.*\): delete it to begin anew"):
        train(LinearStage(), whole)
    torch.save({"a": 1}, whole.output / CHECKPOINT)
    with pytest.raises(SeeSRError, match=r"checkpoint\.pt is not a checkpoint of a training"):
        train(LinearStage(), whole)


def test_weights_that_are_no_numbers_are_not_saved(linear: Settings, whole: Training) -> None:
    """The loss is still finite in the step that breaks them."""

    class Breaking(LinearStage):
        def forward(self, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
            # Its value is 0, and its gradient NaN.
            return super().forward(batch, generator) + (self.weight - self.weight.detach()).square().sum().sqrt()

    training = linear(save_every=1)
    train(LinearStage(), change(training, steps=4))
    with pytest.raises(
        SeeSRError, match=r"The weight weight is no number after step 5.*lower learning_rate.* step 4 is"
    ):
        train(Breaking(), training)
    state = torch.load(training.output / CHECKPOINT, weights_only=True)
    assert state["step"] == 4 and state["weights"]["weight"].isfinite().all() and weight(training).isfinite().all()
    train(LinearStage(), training)
    assert torch.equal(weight(training), weight(whole))


def test_the_log_has_no_row_twice_and_none_of_lost_steps(linear: Settings, whole: Training) -> None:
    """Rows after the last save are taken out by the next start; so is a row that was not written to its end."""
    training = linear(save_every=100, log_every=3)
    train(LinearStage(), change(training, steps=3))
    with (training.output / LOG).open("a", encoding="utf-8") as file:
        file.write("6,0.5,0.1,1.0\n8,0.25")
    train(LinearStage(), training)
    assert rows(training) == rows(whole)


def test_two_trainings_in_one_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LAST_WORKER_S", 0.0)
    with (
        claim_output(tmp_path / "deep" / "run"),
        pytest.raises(SeeSRError, match="another training is running in"),
        claim_output(tmp_path / "deep" / "run"),
    ):
        pass
    with claim_output(tmp_path / "deep" / "run"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(SeeSRError, match="cannot be written to"), claim_output(tmp_path / "file" / "run"):
        pass


def test_the_command_holds_the_folder(
    linear: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    training = linear()
    monkeypatch.setattr(output, "LAST_WORKER_S", 0.0)
    training.output.mkdir()
    with FileLock(training.output / output.LOCK):
        assert command.main(["autoencoder", "--config", str(next(training.output.parent.glob("*.yaml")))]) == 2
    assert "another training is running" in capsys.readouterr().err


def test_time_left_counts_days() -> None:
    assert [describe_left(s) for s in (40, 700, 11_100, 86_399, 86_400, 999_890)] == [
        "40 s",
        "12 min",
        "3 h 05 min",
        "24 h",
        "1 d 0 h",
        "11 d 14 h",
    ]


def test_saving_does_not_count_into_the_speed(linear: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a second here, a save a hundred."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    class Slow(LinearStage):
        def forward(self, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
            now[0] += 1 / OPTIONS["accumulation"]
            return super().forward(batch, generator)

        def save(self, folder: Path) -> None:
            now[0] += 100
            super().save(folder)

        def picture(self) -> torch.Tensor:
            now[0] += 100
            return super().picture()

    training = linear(save_every=2, sample_every=1, log_every=2)
    train(Slow(), training)
    with (training.output / LOG).open(encoding="utf-8", newline="") as file:
        speeds = {row["images_per_second"] for row in csv.DictReader(file)}
    assert speeds == {f"{OPTIONS['batch'] * OPTIONS['accumulation']:.1f}"}


def test_steps_before_an_error_of_the_photos_are_saved(linear: Settings, whole: Training) -> None:
    """As where a photo disappears during the training."""

    class Failing(LinearStage):
        def forward(self, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
            if len(self.seen) == 11:
                raise SeeSRError("gone.png cannot be opened")
            return super().forward(batch, generator)

    training = linear()
    with pytest.raises(SeeSRError, match="gone"):
        train(Failing(), training)
    assert torch.load(training.output / CHECKPOINT, weights_only=True)["step"] == 5
    train(LinearStage(), training)
    assert torch.equal(weight(training), weight(whole)) and rows(training) == rows(whole)


def test_errors_of_workers_are_sentences() -> None:
    """Any other error passes."""
    told = (
        "Caught SeeSRError in DataLoader worker process 0.\nOriginal Traceback:\n  line\nx.errors.SeeSRError: a is gone"
    )
    with pytest.raises(SeeSRError, match=r"^a is gone$"), telling_worker_errors():
        raise SeeSRError(told)
    killed = "DataLoader worker (pid 12) is killed by signal: Killed. "
    memory = r"killed by signal: Killed\), perhaps .*lower optimisation\.workers"
    with pytest.raises(SeeSRError, match=memory), telling_worker_errors():
        raise RuntimeError(killed)
    with pytest.raises(RuntimeError, match="other"), telling_worker_errors():
        raise RuntimeError("other")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each attempt is a fork")
def test_a_training_that_is_interrupted_again_and_again_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Nano's smallest stage, by the whole command. Run tests/train/killing.py for more attempts."""
    script = Path(__file__).with_name("killing.py")
    command = [sys.executable, "-I", str(script), str(tmp_path / "runs"), "8", "3"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
