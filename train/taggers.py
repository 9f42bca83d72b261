"""Train taggers: one like RAM from labels, and DAPE, which sees through degradation, from a RAM."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, mse_loss
from torch.nn.utils import parametrize

from ..seesr_modules.dape.config import DapeConfig
from ..seesr_modules.dape.lora import lora_delta, lora_shapes, lora_stems
from ..seesr_modules.dape.tagger import Dape
from ..seesr_modules.dape.tags import CHINESE_TAG_LIST, TAG_LIST, THRESHOLDS, read_vocabulary, select_tags, tag_files
from ..seesr_modules.dape.weights import load_dape, published_name, size_telling_mask
from ..seesr_modules.errors import SeeSRError
from ..seesr_modules.nano.file import NanoFile
from ..seesr_modules.nano.kind import is_nano
from ..seesr_modules.weights import WeightFile, open_weights
from .config import DapeSettings, PhotoSettings, RamSettings
from .loop import TrainingStage
from .pairs import SCALE, Pairs, to_float
from .steps import Batch

RAM_FILE = "ram.safetensors"
DAPE_FILE = "DAPE.pth"

_JUDGED = 256
"""Number of pictures on which the thresholds are chosen."""


def load_tagger(ram: Path, dape: Path | None = None) -> Dape:
    """Load a tagger from the files that the settings name. That of a nano has its DAPE merged in.

    Raises:
        SeeSRError: See :func:`.load_dape`.
    """
    if dape is not None and is_nano(dape):
        return load_dape(_open_ram(dape), dtype=torch.float32)
    return load_dape(_open_ram(ram), open_weights(dape) if dape else None, torch.float32)


def _open_ram(path: Path) -> WeightFile:
    return NanoFile(path).dape if is_nano(path) else open_weights(path)


class RamStage(TrainingStage):
    """A tagger from scratch, trained on labels of clean pictures by binary cross-entropy.

    Half of the clean pictures are shrunk to the size of degraded ones, which the tagger will see in use.
    """

    settings = RamSettings
    pairs: Pairs

    def __init__(self, settings: RamSettings, photos: PhotoSettings, seed: int) -> None:
        """Build with random weights."""
        super().__init__()
        self.pairs = Pairs(photos, seed)
        classes = len(self.pairs.vocabulary)
        if not classes:
            raise SeeSRError("photos.manifest: a tagger from scratch needs photographs with labels: give a manifest.")
        self.config = DapeConfig(**settings.model_dump(), num_classes=classes, tag_heads=4)
        self.tagger = Dape(self.config)
        for module in self.tagger.modules():
            if isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02 if module.weight.shape[1] < 16 else 0.5)

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the binary cross-entropy on clean pictures, half of the batch at a quarter of the size."""
        clean = to_float(batch["clean"])
        half = len(clean) // 2
        parts = [clean[half:]]
        if half:
            small = interpolate(clean[:half], scale_factor=1 / SCALE, mode="bicubic", antialias=True).clamp(0, 1)
            parts.insert(0, small)
        logits = torch.cat([self.tagger(part).logits for part in parts])
        return binary_cross_entropy_with_logits(logits, batch["labels"])

    def save(self, folder: Path) -> None:
        """Write the weights under RAM's names, and the tag lists as RAM publishes them."""
        tensors = {published_name(name): t.contiguous() for name, t in self.tagger.state_dict().items()}
        tensors |= size_telling_mask(self.config)
        save_file(tensors, folder / RAM_FILE)
        write_tag_lists(folder, self.pairs, self.tagger)


def write_tag_lists(folder: Path, pairs: Pairs, tagger: Dape) -> None:
    """Write the words as RAM publishes them, each with its best threshold on some degraded pictures."""
    judged = [pairs[index] for index in range(_JUDGED)]
    device = next(tagger.parameters()).device
    scores = torch.stack(
        [tagger(to_float(pair["degraded"][None].to(device))).logits[0].sigmoid().cpu() for pair in judged]
    )
    thresholds = find_thresholds(scores, torch.stack([pair["labels"] for pair in judged]))
    english, chinese = zip(*pairs.vocabulary, strict=True)
    for name, lines in ((TAG_LIST, english), (CHINESE_TAG_LIST, chinese), (THRESHOLDS, thresholds)):
        (folder / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")


def find_thresholds(scores: Tensor, labels: Tensor) -> list[float]:
    """Return the threshold with the best F1 for each class, from 0.1 to 0.95; 0.5 if no picture has the tag.

    Args:
        scores: [N, classes] in 0 to 1.
        labels: [N, classes], 0 or 1.
    """
    grid = torch.arange(2, 20) / 20
    on = scores[None] > grid[:, None, None]
    hits = (on * labels).sum(dim=1)
    f1 = 2 * hits / (on.sum(dim=1) + labels.sum(dim=0)).clamp(min=1)
    best, where = f1.max(dim=0)
    return torch.where(best > 0, grid[where], 0.5).tolist()


class TagWriter(nn.Module):
    """Plain RAM. It writes the texts of pictures without labels."""

    def __init__(self, ram: Path) -> None:
        """Load the RAM file and the tag lists beside it.

        Raises:
            SeeSRError: See :func:`.load_dape` and :func:`.read_vocabulary`; or the tag lists are missing.
        """
        super().__init__()
        self.ram = load_tagger(ram)
        if is_nano(ram):
            self._vocabulary = NanoFile(ram).vocabulary
            return
        files = tag_files(ram.parent)
        if files is None:
            raise SeeSRError(
                f"ram: the tag lists {TAG_LIST} and {THRESHOLDS} are missing beside {ram}: put them there."
            )
        self._vocabulary = read_vocabulary(**files, num_classes=self.ram.config.num_classes)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[str]:
        """Return the joined tags of pictures [B,3,H,W] in [0,1]."""
        found = [select_tags(row, self._vocabulary) for row in self.ram(images).logits.cpu()]
        return [", ".join(tag.word for tag in tags) for tags in found]


class LoRA(nn.Module):
    """A LoRA on a weight. B starts at zero, so the weight is unchanged at first."""

    def __init__(self, a_shape: tuple[int, ...], b_shape: tuple[int, ...]) -> None:
        """Take the shapes of the published ``lora_A`` and ``lora_B``."""
        super().__init__()
        self.lora_A = nn.Parameter(torch.empty(a_shape))
        self.lora_B = nn.Parameter(torch.zeros(b_shape))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """Add the LoRA to a weight [out,in]."""
        return weight + lora_delta(self.lora_A, self.lora_B)


class DapeStage(TrainingStage):
    """LoRA on a RAM, trained to see in the degraded picture what plain RAM sees in the clean one.

    Source: paper section 3.2; both losses have weight 1.
    """

    settings = DapeSettings
    pairs: Pairs

    def __init__(self, settings: DapeSettings, photos: PhotoSettings, seed: int) -> None:
        """Load the RAM twice, as teacher and as student, and add the LoRA."""
        super().__init__()
        self.pairs = Pairs(photos, seed)
        self.teacher, self.student = load_tagger(settings.ram), load_tagger(settings.ram)
        weights = dict(self.student.named_parameters())
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        stems = {name: stem for name, (stem,) in lora_stems(weights, ()).items()}
        sizes = lora_shapes({name: [stem] for name, stem in stems.items()}, shapes, settings.rank)
        self._loras: dict[str, LoRA] = {}
        for name, stem in stems.items():
            layer = self.student.get_submodule(name.removesuffix(".weight"))
            lora = LoRA(sizes[f"{stem}.lora_A"], sizes[f"{stem}.lora_B"])
            parametrize.register_parametrization(layer, "weight", lora)
            self._loras[stem] = lora

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the squared error of the soft prompt plus the cross-entropy with the teacher's scores."""
        with torch.no_grad():
            wanted = self.teacher(to_float(batch["clean"]))
        seen = self.student(to_float(batch["degraded"]))
        tags = binary_cross_entropy_with_logits(seen.logits, wanted.logits.sigmoid())
        return mse_loss(seen.soft_prompt, wanted.soft_prompt) + tags

    def save(self, folder: Path) -> None:
        """Write the LoRA under the published names and, if photographs have labels, fitting tag lists."""
        tensors: dict[str, Tensor] = {}
        for stem, lora in self._loras.items():
            tensors |= {f"{stem}.{name}": tensor.clone() for name, tensor in lora.state_dict().items()}
        with (folder / DAPE_FILE).open("wb") as file:  # torch tells a full disk only for a file that Python has opened
            torch.save(tensors, file)
        if self.pairs.vocabulary:
            write_tag_lists(folder, self.pairs, self.student)
