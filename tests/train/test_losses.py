"""What each stage shows to which network and asks of it: the networks are stand-ins that note what they are given."""

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


def pictures(count: int = 4) -> dict[str, Tensor]:
    """Return a batch: clean pictures, degraded ones that are unlike them, labels."""
    clean = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=seeded(1))
    degraded = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=seeded(2))
    return {
        "clean": clean,
        "degraded": degraded,
        "labels": torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]])[:count],
    }


def empty(kind: type[Any]) -> Any:
    """Return a stage of a kind without any of its networks."""
    stage = kind.__new__(kind)
    TrainingStage.__init__(stage)
    return stage


@pytest.fixture
def stage() -> Any:
    """The stage of SeeSR, with networks that note what they are given."""
    stage = empty(SeeSRStage)
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

    def denoiser(*given: Tensor) -> Tensor:
        stage.seen["denoiser"].append(given)
        return torch.zeros_like(given[0])

    stage.text, stage.dape, stage.denoiser = text, dape, denoiser
    stage.autoencoder = SimpleNamespace(encode=lambda images: images[:, :, ::8, ::8])
    return stage


# ----------------------------------------------------------------------------------- the denoisers


def test_degraded_pictures_are_seen_four_times_larger() -> None:
    degraded = pictures()["degraded"]
    wanted = interpolate(degraded.float() / 255, (16, 16), mode="bicubic").clamp(0, 1)
    torch.testing.assert_close(enlarge(degraded), wanted)
    assert wanted.min() == 0 and wanted.max() == 1, "else the clamp would not be seen"


def test_a_degraded_picture_is_learnt_under_the_negative_prompt(stage: Any) -> None:
    """All of them; none of them, which leaves the texts alone; some, whose others carry the positive prompt."""
    batch, texts = pictures(), ["a", "b", "c", "d"]
    clean, damaged = batch["clean"].float() / 255 * 2 - 1, enlarge(batch["degraded"]) * 2 - 1
    images, found = stage.choose_targets(batch, texts, seeded())
    assert torch.equal(images, clean) and found == texts
    stage.degraded_share = 1.0
    images, found = stage.choose_targets(batch, texts, seeded())
    assert torch.equal(images, damaged) and found == [NEGATIVE_QUALITY] * 4
    stage.degraded_share = 0.5
    images, found = stage.choose_targets(batch, texts, seeded())
    bad = [text == NEGATIVE_QUALITY for text in found]
    assert 0 < sum(bad) < 4
    assert [text for text in found if text != NEGATIVE_QUALITY] == [
        f"{text}, {POSITIVE_QUALITY}" for text, is_bad in zip(texts, bad, strict=True) if not is_bad
    ]
    for image, is_bad, one, other in zip(images, bad, damaged, clean, strict=True):
        assert torch.equal(image, one if is_bad else other)


def test_texts_are_left_out_whether_a_picture_is_degraded_or_not(stage: Any) -> None:
    """Both shares are kept, and the two draws have nothing to do with each other: of 4000, to four deviations."""
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
    assert stage.join_labels(pictures()["labels"]) == ["dog, sky", "sea", "", "dog, sea, sky"]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_network_is_asked_for_noise_or_velocity(stage: Any, kind: str) -> None:
    """Each picture at a timestep of its own, noised by the published schedule; float32's rounding is allowed for."""
    stage.draws = 2
    stage.schedule.register_to_config(prediction_type=kind)
    latents = torch.randn(300, 4, 2, 2, generator=seeded(3))
    timesteps, noisy, wanted = stage.add_noise(latents, seeded())
    assert 0 <= timesteps.min() < 10 and 990 <= timesteps.max() < 1000
    share = ALPHAS[timesteps].view(-1, 1, 1, 1)
    noise = (noisy - share.sqrt() * latents.repeat(2, 1, 1, 1)) / (1 - share).sqrt()
    assert noise.std().item() == pytest.approx(1, abs=0.05)
    velocity = share.sqrt() * noise - (1 - share).sqrt() * latents.repeat(2, 1, 1, 1)
    # Where there is hardly any noise, dividing by it makes the rounding larger.
    torch.testing.assert_close(wanted, noise if kind == "epsilon" else velocity, rtol=0, atol=1e-3)


def test_seesr_learns_from_degraded_pictures_what_the_clean_ones_are(stage: Any) -> None:
    """Hint and soft prompt are the degraded picture's, the latent is the clean one's; once for each draw."""
    batch = pictures()
    stage.draws = 2
    noted = []
    noised = stage.add_noise
    stage.add_noise = lambda *given: noted.append((given[0], noised(*given))) or noted[-1][1]
    loss = stage(batch, seeded())
    latents, (timesteps, noisy, wanted) = noted[0]
    assert torch.equal(latents, (batch["clean"].float() / 255 * 2 - 1)[:, :, ::8, ::8])
    (given,) = stage.seen["denoiser"]
    assert torch.equal(given[0], noisy) and torch.equal(given[1], timesteps)
    assert given[2].flatten().tolist() == [0, 1, 2, 3] * 2
    assert given[3].flatten().tolist() == [10, 11, 12, 13] * 2
    assert torch.equal(given[4], enlarge(batch["degraded"]).repeat(2, 1, 1, 1))
    assert stage.seen["text"] == [["dog, sky", "sea", "", "dog, sea, sky"]]
    (shown,) = stage.seen["dape"]
    assert torch.equal(shown, batch["degraded"].float() / 255)
    torch.testing.assert_close(loss, wanted.square().mean())


def test_pictures_without_labels_are_described_when_clean(stage: Any) -> None:
    batch, shown = pictures(), []
    stage.tag_writer = lambda images: shown.append(images) or ["w"] * len(images)
    stage(batch, seeded())
    assert torch.equal(shown[0], batch["clean"].float() / 255)
    assert stage.seen["text"] == [["w"] * 4]


def test_samples_go_from_the_lr_start_down_the_trailing_timesteps(stage: Any) -> None:
    """The text carries the positive prompt; a denoiser that sees no noise leaves Euler's steps known."""
    batch = pictures(2)
    noise = torch.randn(2, 3, 2, 2, generator=seeded(4))
    latents = stage.restore(batch, 4, noise)
    hint = enlarge(batch["degraded"])
    first = ALPHAS[-1].sqrt() * (hint * 2 - 1)[:, :, ::8, ::8] + (1 - ALPHAS[-1]).sqrt() * noise
    given = stage.seen["denoiser"]
    assert [step[1].tolist() for step in given] == [[999] * 2, [749] * 2, [499] * 2, [249] * 2]
    torch.testing.assert_close(given[0][0], first, rtol=1e-5, atol=1e-5)
    # At noise of 0 a step only rescales; the last one goes to the first alpha, as diffusers ends.
    for step, timestep in zip(given[1:], (749, 499, 249), strict=True):
        torch.testing.assert_close(step[0], first * (ALPHAS[timestep] / ALPHAS[-1]).sqrt(), rtol=1e-4, atol=1e-4)
    assert latents.shape == noise.shape and latents.std() > given[3][0].std()
    assert all(torch.equal(step[4], hint) and step[3].flatten().tolist() == [10, 11] for step in given)
    assert stage.seen["text"] == [[f"dog, sky, {POSITIVE_QUALITY}", f"sea, {POSITIVE_QUALITY}"]]
    assert torch.equal(stage.seen["dape"][0], batch["degraded"].float() / 255)


def test_a_base_learns_from_its_text_alone(stage: Any) -> None:
    """The degraded picture takes part under the negative prompt only."""
    base, batch, given = empty(BaseStage), pictures(), []
    base.pairs, base.text, base.autoencoder, base.draws = stage.pairs, stage.text, stage.autoencoder, 2
    base.text_dropout, base.degraded_share = 0.0, 1.0
    base.add_noise = lambda latents, generator: (latents[:, 0, 0, 0], 2 * latents, 3 * latents)
    base.unet = lambda *args, **named: given.append((args, named)) or SimpleNamespace(sample=args[0])
    loss = base(batch, seeded())
    (((noisy, timesteps), named),) = given
    latents = (enlarge(batch["degraded"]) * 2 - 1)[:, :, ::8, ::8]
    assert torch.equal(noisy, 2 * latents) and torch.equal(timesteps, latents[:, 0, 0, 0])
    assert stage.seen["text"] == [[NEGATIVE_QUALITY] * 4]
    assert named.pop("encoder_hidden_states").flatten().tolist() == [0, 1, 2, 3] * 2 and not named
    torch.testing.assert_close(loss, latents.square().mean())


# --------------------------------------------------------------------------------------- the taggers


class Noting(nn.Module):
    """A tagger that notes its pictures and says what it is told to."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.value = value

    def forward(self, images: Tensor) -> Any:
        self.seen.append(images)
        marks = images.mean((1, 2, 3)).view(-1, 1) + self.value * torch.tensor([1.0, -1.0, 0.5])
        return SimpleNamespace(logits=marks, soft_prompt=marks.unsqueeze(1) * 2)


def test_a_tagger_learns_from_small_and_large_pictures() -> None:
    """The first half of the batch a quarter as large, low-passed first, as degraded pictures are."""
    stage, batch = empty(RamStage), pictures()
    stage.tagger = Noting(1.0)
    loss = stage(batch, seeded())
    small, large = stage.tagger.seen
    clean = batch["clean"].float() / 255
    wanted = interpolate(clean[:2], (4, 4), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(small, wanted)
    assert torch.equal(large, clean[2:])
    assert (small - interpolate(clean[:2], (4, 4), mode="bicubic")).abs().max() > 0.1
    logits = torch.cat([Noting(1.0)(part).logits for part in (small, large)])
    torch.testing.assert_close(loss, binary_cross_entropy_with_logits(logits, batch["labels"]))


def test_dape_learns_to_say_of_the_degraded_picture_what_the_teacher_says_of_the_clean_one() -> None:
    stage, batch = empty(DapeStage), pictures()
    stage.teacher, stage.student = Noting(1.0), Noting(0.2)
    loss = stage(batch, seeded())
    assert torch.equal(stage.teacher.seen[0], batch["clean"].float() / 255)
    assert torch.equal(stage.student.seen[0], batch["degraded"].float() / 255)
    wanted, found = Noting(1.0)(batch["clean"].float() / 255), Noting(0.2)(batch["degraded"].float() / 255)
    tags = binary_cross_entropy_with_logits(found.logits, wanted.logits.sigmoid())
    torch.testing.assert_close(loss, (found.soft_prompt - wanted.soft_prompt).square().mean() + tags)


def test_a_picture_without_labels_gets_the_words_above_their_thresholds() -> None:
    writer = taggers.TagWriter.__new__(taggers.TagWriter)
    nn.Module.__init__(writer)
    writer.ram, writer._vocabulary = Noting(3.0), Vocabulary(("dog", "sea", "sky"), (0.9, 0.5, 0.85))
    batch = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])  # logits 3, -3, 1.5 and 4, -2, 2.5
    assert writer(batch) == ["dog", "dog, sky"]
    assert torch.equal(writer.ram.seen[0], batch)


def test_thresholds_are_those_of_the_best_f1() -> None:
    """By hand: right from 0.3 to 0.6; best with one wrong; never right; no picture has it; on all of them."""
    scores = torch.tensor([[0.28, 0.62, 0.99, 0.3, 0.97], [0.61, 0.41, 0.01, 0.3, 0.96], [0.12, 0.33, 0.02, 0.3, 0.99]])
    labels = torch.tensor([[0.0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [0, 0, 0, 0, 1]])
    # Class 0: above 0.28 only what is right is left. Class 1: at 0.35 two are on, one of them right.
    # Class 2: the one that has it is never on from 0.1 on. Class 3: nothing tells. Class 4: the least threshold does.
    assert find_thresholds(scores, labels) == pytest.approx([0.3, 0.35, 0.5, 0.5, 0.1])
    assert find_thresholds(torch.tensor([[0.96], [0.94]]), torch.tensor([[1.0], [0]])) == pytest.approx([0.95])


def test_thresholds_are_chosen_on_degraded_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The words and thresholds are files, a line for each class."""
    batch = pictures()
    pairs = [{name: tensor[index] for name, tensor in batch.items()} for index in range(4)]
    tagger = Noting(0.0)
    tagger.weight = nn.Parameter(torch.zeros(1))
    monkeypatch.setattr(taggers, "_JUDGED", 4)

    class Few(list):  # type: ignore[type-arg]
        vocabulary = [("dog", "狗"), ("sea", "海"), ("sky", "天")]  # noqa: RUF012 - never written

    taggers.write_tag_lists(tmp_path, Few(pairs), tagger)
    assert torch.equal(torch.cat(tagger.seen), batch["degraded"].float() / 255)
    assert (tmp_path / taggers.TAG_LIST).read_text("utf-8") == "dog\nsea\nsky\n"
    assert (tmp_path / taggers.CHINESE_TAG_LIST).read_text("utf-8") == "狗\n海\n天\n"
    scores = Noting(0.0)(batch["degraded"].float() / 255).logits.sigmoid()
    written = (tmp_path / taggers.THRESHOLDS).read_text("utf-8").split()
    assert [float(line) for line in written] == pytest.approx(find_thresholds(scores, batch["labels"]))


# ----------------------------------------------------------------------------------- the autoencoders


def test_noise_on_latents_has_a_strength_for_each_picture() -> None:
    """Drawn evenly up to the greatest."""
    noise = add_noise(torch.zeros(400, 4, 8, 8), 0.5, seeded()).flatten(1).std(1)
    assert 0 <= noise.min() < 0.01 and 0.48 < noise.max() < 0.58
    assert noise.mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(add_noise(torch.ones(2, 4, 2, 2), 0.0, seeded()), torch.ones(2, 4, 2, 2))


@pytest.mark.parametrize("share", [0.25, 1.0, 0.0])
def test_a_decoder_learns_from_sampled_and_clean_latents(share: float) -> None:
    """The sampled ones are of the first pictures, at one of the asked numbers of steps."""
    stage, batch, asked = empty(DecoderStage), pictures(), []

    def restored(first: dict[str, Tensor], steps: int, noise: Tensor) -> Tensor:
        asked.append((first["degraded"], steps, noise.shape))
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
    assert {steps for _, steps, _ in asked} == {1, 2, 4}
    assert torch.equal(asked[0][0], batch["degraded"][:count]) and asked[0][2] == (count, 3, 2, 2)
