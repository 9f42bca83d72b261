"""Which inputs each stage gives to which network, and which loss it computes. Stand-ins record the networks' inputs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from seesr_pack.seesr_modules.config import NEGATIVE_QUALITY, POSITIVE_QUALITY
from seesr_pack.seesr_modules.dape.tags import Vocabulary
from seesr_pack.train import taggers
from seesr_pack.train.autoencoding import DecoderStage, add_noise
from seesr_pack.train.diffusion import BaseStage, SeeSRStage, enlarge
from seesr_pack.train.loop import TrainingStage
from seesr_pack.train.taggers import DapeStage, RamStage, find_thresholds
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, l1_loss

ALPHAS = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0).float()
VOCABULARY = [("dog", ""), ("sea", ""), ("sky", "")]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_batch(count: int = 4) -> dict[str, Tensor]:
    """Return a batch: clean pictures, different pictures as degraded ones, and labels."""
    clean = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=seeded(1))
    degraded = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=seeded(2))
    return {
        "clean": clean,
        "degraded": degraded,
        "labels": torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]])[:count],
    }


def without_networks(kind: type[Any]) -> Any:
    """Return a stage of a kind without its networks."""
    stage = kind.__new__(kind)
    TrainingStage.__init__(stage)
    return stage


@pytest.fixture
def stage() -> Any:
    """A SeeSR stage whose networks record their inputs."""
    stage = without_networks(SeeSRStage)
    stage.pairs = SimpleNamespace(vocabulary=VOCABULARY)
    stage.schedule = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
    )
    stage.text_dropout, stage.degraded_share, stage.draws, stage.tag_writer = 0.0, 0.0, 1, None
    stage.seen = {"text": [], "dape": [], "denoiser": []}

    def text(texts: list[str]) -> Tensor:
        stage.seen["text"].append(texts)
        return torch.arange(len(texts)).view(-1, 1, 1).float()

    def dape(images: Tensor) -> Any:
        stage.seen["dape"].append(images)
        return SimpleNamespace(soft_prompt=10 + torch.arange(len(images)).view(-1, 1, 1).float())

    def denoiser(*inputs: Tensor) -> Tensor:
        stage.seen["denoiser"].append(inputs)
        return torch.zeros_like(inputs[0])

    stage.text, stage.dape, stage.denoiser = text, dape, denoiser
    stage.autoencoder = SimpleNamespace(encode=lambda images: images[:, :, ::8, ::8])
    return stage


# ----------------------------------------------------------------------------------- the denoisers


def test_degraded_pictures_are_enlarged_four_times() -> None:
    degraded = make_batch()["degraded"]
    expected = interpolate(degraded.float() / 255, (16, 16), mode="bicubic").clamp(0, 1)
    torch.testing.assert_close(enlarge(degraded), expected)
    assert expected.min() == 0 and expected.max() == 1, "else the clamp would not be seen"


def test_degraded_targets_get_the_negative_prompt(stage: Any) -> None:
    """Test shares of 0, 1 and 0.5. At 0 texts stay unchanged; at 0.5 the clean ones get the positive prompt."""
    batch, texts = make_batch(), ["a", "b", "c", "d"]
    clean, damaged = batch["clean"].float() / 255 * 2 - 1, enlarge(batch["degraded"]) * 2 - 1
    images, found = stage.choose_targets(batch, texts, seeded())
    assert torch.equal(images, clean) and found == texts
    stage.degraded_share = 1.0
    images, found = stage.choose_targets(batch, texts, seeded())
    assert torch.equal(images, damaged) and found == [NEGATIVE_QUALITY] * 4
    stage.degraded_share = 0.5
    images, found = stage.choose_targets(batch, texts, seeded())
    degraded = [text == NEGATIVE_QUALITY for text in found]
    assert 0 < sum(degraded) < 4
    assert [text for text in found if text != NEGATIVE_QUALITY] == [
        f"{text}, {POSITIVE_QUALITY}" for text, is_degraded in zip(texts, degraded, strict=True) if not is_degraded
    ]
    for image, is_degraded, degraded_image, clean_image in zip(images, degraded, damaged, clean, strict=True):
        assert torch.equal(image, degraded_image if is_degraded else clean_image)


def test_texts_are_dropped_independently_of_degraded_targets(stage: Any) -> None:
    """Both shares are right, and the draws are independent: 4000 pictures, tolerances of four deviations."""
    count = 4000
    batch = {
        "clean": torch.zeros(count, 3, 4, 4, dtype=torch.uint8),
        "degraded": torch.ones(count, 3, 1, 1, dtype=torch.uint8),
    }
    stage.degraded_share, stage.text_dropout = 0.3, 0.4
    images, texts = stage.choose_targets(batch, ["x"] * count, seeded())
    degraded = images[:, 0, 0, 0] > -1
    dropped = torch.tensor([text == "" for text in texts])
    assert degraded.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert dropped.float().mean().item() == pytest.approx(0.4, abs=0.03)
    assert (degraded & dropped).float().mean().item() == pytest.approx(0.12, abs=0.02)


def test_labels_become_words_in_their_order(stage: Any) -> None:
    assert stage.join_labels(make_batch()["labels"]) == ["dog, sky", "sea", "", "dog, sea, sky"]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_target_is_noise_or_velocity(stage: Any, kind: str) -> None:
    """Each picture has its own timestep and is noised by the published schedule. float32 rounding is allowed for."""
    stage.draws = 2
    stage.schedule.register_to_config(prediction_type=kind)
    latents = torch.randn(300, 4, 2, 2, generator=seeded(3))
    timesteps, noisy, expected = stage.add_noise(latents, seeded())
    assert 0 <= timesteps.min() < 10 and 990 <= timesteps.max() < 1000
    share = ALPHAS[timesteps].view(-1, 1, 1, 1)
    noise = (noisy - share.sqrt() * latents.repeat(2, 1, 1, 1)) / (1 - share).sqrt()
    assert noise.std().item() == pytest.approx(1, abs=0.05)
    velocity = share.sqrt() * noise - (1 - share).sqrt() * latents.repeat(2, 1, 1, 1)
    # With little noise, dividing by it enlarges rounding errors.
    torch.testing.assert_close(expected, noise if kind == "epsilon" else velocity, rtol=0, atol=1e-3)


def test_seesr_learns_clean_pictures_from_degraded_ones(stage: Any) -> None:
    """Hint and soft prompt come from the degraded picture, the latent from the clean one, repeated for each draw."""
    batch = make_batch()
    stage.draws = 2
    recorded = []
    real = stage.add_noise
    stage.add_noise = lambda *inputs: recorded.append((inputs[0], real(*inputs))) or recorded[-1][1]
    loss = stage(batch, seeded())
    latents, (timesteps, noisy, expected) = recorded[0]
    assert torch.equal(latents, (batch["clean"].float() / 255 * 2 - 1)[:, :, ::8, ::8])
    (inputs,) = stage.seen["denoiser"]
    assert torch.equal(inputs[0], noisy) and torch.equal(inputs[1], timesteps)
    assert inputs[2].flatten().tolist() == [0, 1, 2, 3] * 2
    assert inputs[3].flatten().tolist() == [10, 11, 12, 13] * 2
    assert torch.equal(inputs[4], enlarge(batch["degraded"]).repeat(2, 1, 1, 1))
    assert stage.seen["text"] == [["dog, sky", "sea", "", "dog, sea, sky"]]
    (shown,) = stage.seen["dape"]
    assert torch.equal(shown, batch["degraded"].float() / 255)
    torch.testing.assert_close(loss, expected.square().mean())


def test_pictures_without_labels_are_tagged_from_the_clean_picture(stage: Any) -> None:
    batch, described = make_batch(), []
    stage.tag_writer = lambda images: described.append(images) or ["w"] * len(images)
    stage(batch, seeded())
    assert torch.equal(described[0], batch["clean"].float() / 255)
    assert stage.seen["text"] == [["w"] * 4]


def test_samples_start_from_lr_and_use_trailing_timesteps(stage: Any) -> None:
    """The text includes the positive prompt. A denoiser that predicts zero makes Euler's steps known."""
    batch = make_batch(2)
    noise = torch.randn(2, 3, 2, 2, generator=seeded(4))
    latents = stage.restore(batch, 4, noise)
    hint = enlarge(batch["degraded"])
    first = ALPHAS[-1].sqrt() * (hint * 2 - 1)[:, :, ::8, ::8] + (1 - ALPHAS[-1]).sqrt() * noise
    steps = stage.seen["denoiser"]
    assert [step[1].tolist() for step in steps] == [[999] * 2, [749] * 2, [499] * 2, [249] * 2]
    torch.testing.assert_close(steps[0][0], first, rtol=1e-5, atol=1e-5)
    # If the prediction is 0, a step only rescales. The last step ends at the first alpha, as in diffusers.
    for step, timestep in zip(steps[1:], (749, 499, 249), strict=True):
        torch.testing.assert_close(step[0], first * (ALPHAS[timestep] / ALPHAS[-1]).sqrt(), rtol=1e-4, atol=1e-4)
    assert latents.shape == noise.shape and latents.std() > steps[3][0].std()
    assert all(torch.equal(step[4], hint) and step[3].flatten().tolist() == [10, 11] for step in steps)
    assert stage.seen["text"] == [[f"dog, sky, {POSITIVE_QUALITY}", f"sea, {POSITIVE_QUALITY}"]]
    assert torch.equal(stage.seen["dape"][0], batch["degraded"].float() / 255)


def test_a_base_learns_from_its_text_only(stage: Any) -> None:
    """The degraded picture is used only as a target under the negative prompt."""
    base, batch, calls = without_networks(BaseStage), make_batch(), []
    base.pairs, base.text, base.autoencoder, base.draws = stage.pairs, stage.text, stage.autoencoder, 2
    base.text_dropout, base.degraded_share = 0.0, 1.0
    base.add_noise = lambda latents, generator: (latents[:, 0, 0, 0], 2 * latents, 3 * latents)
    base.unet = lambda *args, **keywords: calls.append((args, keywords)) or SimpleNamespace(sample=args[0])
    loss = base(batch, seeded())
    (((noisy, timesteps), keywords),) = calls
    latents = (enlarge(batch["degraded"]) * 2 - 1)[:, :, ::8, ::8]
    assert torch.equal(noisy, 2 * latents) and torch.equal(timesteps, latents[:, 0, 0, 0])
    assert stage.seen["text"] == [[NEGATIVE_QUALITY] * 4]
    assert keywords.pop("encoder_hidden_states").flatten().tolist() == [0, 1, 2, 3] * 2 and not keywords
    torch.testing.assert_close(loss, latents.square().mean())


# --------------------------------------------------------------------------------------- the taggers


class FakeTagger(nn.Module):
    """A tagger that records its pictures and returns known scores."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.value = value

    def forward(self, images: Tensor) -> Any:
        self.seen.append(images)
        scores = images.mean((1, 2, 3)).view(-1, 1) + self.value * torch.tensor([1.0, -1.0, 0.5])
        return SimpleNamespace(logits=scores, soft_prompt=scores.unsqueeze(1) * 2)


def test_a_tagger_learns_from_small_and_large_pictures() -> None:
    """The first half of the batch is low-passed and shrunk to a quarter, to the size of degraded pictures."""
    stage, batch = without_networks(RamStage), make_batch()
    stage.tagger = FakeTagger(1.0)
    loss = stage(batch, seeded())
    small, large = stage.tagger.seen
    clean = batch["clean"].float() / 255
    expected = interpolate(clean[:2], (4, 4), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(small, expected)
    assert torch.equal(large, clean[2:])
    assert (small - interpolate(clean[:2], (4, 4), mode="bicubic")).abs().max() > 0.1
    logits = torch.cat([FakeTagger(1.0)(part).logits for part in (small, large)])
    torch.testing.assert_close(loss, binary_cross_entropy_with_logits(logits, batch["labels"]))


def test_dape_learns_the_teachers_output_for_the_clean_picture() -> None:
    stage, batch = without_networks(DapeStage), make_batch()
    stage.teacher, stage.student = FakeTagger(1.0), FakeTagger(0.2)
    loss = stage(batch, seeded())
    assert torch.equal(stage.teacher.seen[0], batch["clean"].float() / 255)
    assert torch.equal(stage.student.seen[0], batch["degraded"].float() / 255)
    expected, found = FakeTagger(1.0)(batch["clean"].float() / 255), FakeTagger(0.2)(batch["degraded"].float() / 255)
    tags = binary_cross_entropy_with_logits(found.logits, expected.logits.sigmoid())
    torch.testing.assert_close(loss, (found.soft_prompt - expected.soft_prompt).square().mean() + tags)


def test_the_tag_writer_returns_words_above_their_thresholds() -> None:
    writer = taggers.TagWriter.__new__(taggers.TagWriter)
    nn.Module.__init__(writer)
    writer.ram, writer._vocabulary = FakeTagger(3.0), Vocabulary(("dog", "sea", "sky"), (0.9, 0.5, 0.85))
    batch = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])  # logits 3, -3, 1.5 and 4, -2, 2.5
    assert writer(batch) == ["dog", "dog, sky"]
    assert torch.equal(writer.ram.seen[0], batch)


def test_thresholds_give_the_best_f1() -> None:
    """The expected thresholds are computed by hand, see the comments."""
    scores = torch.tensor([[0.28, 0.62, 0.99, 0.3, 0.97], [0.61, 0.41, 0.01, 0.3, 0.96], [0.12, 0.33, 0.02, 0.3, 0.99]])
    labels = torch.tensor([[0.0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [0, 0, 0, 0, 1]])
    # Class 0: above 0.28 all that is on is right. Class 1: at 0.35 two are on, one of them right. Class 2: its only
    # picture is not on at any threshold from 0.1. Class 3: no picture has it. Class 4: all pictures have it, so the
    # lowest threshold is best.
    assert find_thresholds(scores, labels) == pytest.approx([0.3, 0.35, 0.5, 0.5, 0.1])
    assert find_thresholds(torch.tensor([[0.96], [0.94]]), torch.tensor([[1.0], [0]])) == pytest.approx([0.95])


def test_thresholds_are_chosen_on_degraded_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Words and thresholds are written to files with one line for each class."""
    batch = make_batch()
    pairs = [{name: tensor[index] for name, tensor in batch.items()} for index in range(4)]
    tagger = FakeTagger(0.0)
    tagger.weight = nn.Parameter(torch.zeros(1))
    monkeypatch.setattr(taggers, "_JUDGED", 4)

    class Few(list):  # type: ignore[type-arg]
        vocabulary = [("dog", "狗"), ("sea", "海"), ("sky", "天")]  # noqa: RUF012 - never written

    taggers.write_tag_lists(tmp_path, Few(pairs), tagger)
    assert torch.equal(torch.cat(tagger.seen), batch["degraded"].float() / 255)
    assert (tmp_path / taggers.TAG_LIST).read_text("utf-8") == "dog\nsea\nsky\n"
    assert (tmp_path / taggers.CHINESE_TAG_LIST).read_text("utf-8") == "狗\n海\n天\n"
    scores = FakeTagger(0.0)(batch["degraded"].float() / 255).logits.sigmoid()
    written = (tmp_path / taggers.THRESHOLDS).read_text("utf-8").split()
    assert [float(line) for line in written] == pytest.approx(find_thresholds(scores, batch["labels"]))


# ----------------------------------------------------------------------------------- the autoencoders


def test_each_picture_has_its_own_strength_of_latent_noise() -> None:
    """The strength is drawn uniformly from 0 to the maximum."""
    noise = add_noise(torch.zeros(400, 4, 8, 8), 0.5, seeded()).flatten(1).std(1)
    assert 0 <= noise.min() < 0.01 and 0.48 < noise.max() < 0.58
    assert noise.mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(add_noise(torch.ones(2, 4, 2, 2), 0.0, seeded()), torch.ones(2, 4, 2, 2))


@pytest.mark.parametrize("share", [0.25, 1.0, 0.0])
def test_a_decoder_learns_from_sampled_and_clean_latents(share: float) -> None:
    """The first pictures of a batch are sampled, with one of the numbers of steps in the settings."""
    stage, batch, calls = without_networks(DecoderStage), make_batch(), []

    def restored(first: dict[str, Tensor], steps: int, noise: Tensor) -> Tensor:
        calls.append((first["degraded"], steps, noise.shape))
        return torch.full_like(noise, 7.0)

    stage._settings = SimpleNamespace(sampled_share=share, steps=(1, 2, 4), noise=0.0, adversary_weight=0.0)
    stage.seesr = SimpleNamespace(restore=restored)
    stage.autoencoder = SimpleNamespace(
        encode=lambda images: images[:, :, ::8, ::8],
        decode=lambda latents: latents.repeat_interleave(8, 2).repeat_interleave(8, 3),
    )
    images = batch["clean"].float() / 255 * 2 - 1
    losses = [stage(batch, seeded(seed)) for seed in range(30)]
    count = round(4 * share)
    latents = images[:, :, ::8, ::8].clone()
    latents[:count] = 7.0
    torch.testing.assert_close(losses[0], l1_loss(stage.autoencoder.decode(latents), images))
    assert {steps for _, steps, _ in calls} == ({1, 2, 4} if count else set())
    assert all(torch.equal(first, batch["degraded"][:count]) for first, _, _ in calls)
    assert {shape for _, _, shape in calls} == ({(count, 3, 2, 2)} if count else set())
