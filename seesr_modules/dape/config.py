"""All sizes of a DAPE, read from the shapes of its checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config import MAX_SIZE, count_blocks, telling_shape
from ..errors import SeeSRError

if TYPE_CHECKING:
    from ..config import Shapes

# Published names of the tag head, in order of preference. Some releases call the tag head vision_multi; tag_encoder
# shares its tensors with the tag head.
TAG_HEAD_NAMES = ("tagging_head", "vision_multi", "tag_encoder")

PUBLISHED_TAG_HEADS = 4  # shapes do not tell how a width is split into heads
PUBLISHED_TAG_LAYERS = 2  # nor how many of tag_encoder's layers are the tag head's


@dataclass(frozen=True)
class DapeConfig:
    """Sizes of the Swin encoder and of the tag head.

    ``image_size`` and ``patch_size`` are in pixels, ``window_size`` in patches. A stage that is smaller than the
    window is one window of its own size. ``label_width`` is the width of the stored label embeddings,
    ``tag_width`` that of the tag head.

    Raises:
        SeeSRError: The sizes do not fit each other.
    """

    image_size: int
    patch_size: int
    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int
    mlp_ratio: int
    soft_prompt_width: int
    num_classes: int
    label_width: int
    tag_width: int
    tag_hidden: int
    tag_layers: int
    tag_heads: int = PUBLISHED_TAG_HEADS

    def __post_init__(self) -> None:
        """Refuse impossible sizes."""
        for name, value in vars(self).items():
            if min(value if isinstance(value, tuple) else (value,), default=0) < 1:
                raise SeeSRError(f"DAPE: {name} must be at least 1, not {value}.")
        if max(self.image_size, self.out_width) > MAX_SIZE:
            raise SeeSRError(
                f"DAPE: image_size {self.image_size} and last width {self.out_width} must be at most {MAX_SIZE}: "
                "the file is damaged."
            )
        if len(self.depths) != len(self.num_heads):
            raise SeeSRError(f"DAPE: depths {self.depths} and num_heads {self.num_heads} differ in length.")
        if self.image_size % self.patch_size:
            raise SeeSRError(f"DAPE: image_size {self.image_size} is not a multiple of patch_size {self.patch_size}.")
        if self.tag_width % self.tag_heads:
            raise SeeSRError(f"DAPE: tag_width {self.tag_width} does not divide into {self.tag_heads} heads.")
        for stage, heads in enumerate(self.num_heads):
            if self.width(stage) % heads:
                raise SeeSRError(
                    f"DAPE: width {self.width(stage)} of stage {stage} does not divide into {heads} heads."
                )
        if not _fits(self.image_size // self.patch_size, self.window_size, len(self.depths)):
            raise SeeSRError(
                f"DAPE: an image of {self.image_size} px (patch_size {self.patch_size}) does not divide into "
                f"windows of {self.window_size} in each of {len(self.depths)} stages."
            )

    def width(self, stage: int) -> int:
        """Channels of ``stage``; each stage doubles them."""
        return self.embed_dim << stage

    def resolution(self, stage: int) -> int:
        """Patches along each side of ``stage``; each stage halves them."""
        return (self.image_size // self.patch_size) >> stage

    def window(self, stage: int) -> int:
        """Window side of ``stage`` in patches."""
        return min(self.window_size, self.resolution(stage))

    @property
    def out_width(self) -> int:
        """Channels of the last stage."""
        return self.width(len(self.depths) - 1)

    @property
    def tokens(self) -> int:
        """Tokens of the soft prompt: the last stage's patches and their mean."""
        return self.resolution(len(self.depths) - 1) ** 2 + 1

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> DapeConfig:
        """Read the sizes from a RAM checkpoint's names and shapes.

        The shapes do not tell the head count of the tag head (4 is used, as published), nor its number of layers if a
        file names it ``tag_encoder`` only (2 is used, as published). If a file has no attention masks of Swin's and
        every stage holds a whole window, they do not tell the image size either. The size is then used that makes
        the last stage one window, as in every published Swin.

        Raises:
            SeeSRError: A tensor that tells a size is missing or has an impossible shape, or the network is
                the published one for another image size, such as Swin-L for 224 px, from which RAM was trained.
        """

        def shape(name: str, ndim: int) -> tuple[int, ...]:
            return telling_shape(shapes, name, ndim, "RAM weights")

        swin, names = "visual_encoder", sorted(shapes)
        embed_dim, _, patch_size, _ = shape(f"{swin}.patch_embed.proj.weight", 4)
        stages = max(1, count_blocks(names, f"{swin}.layers."))
        tables = [shape(f"{swin}.layers.{i}.blocks.0.attn.relative_position_bias_table", 2) for i in range(stages)]
        windows = [(math.isqrt(length) + 1) // 2 for length, _ in tables]
        for stage, (length, _) in enumerate(tables):
            if (2 * windows[stage] - 1) ** 2 != length:
                raise SeeSRError(
                    f"RAM weights: the position bias table of stage {stage} has {length} rows, "
                    "which is (2w-1)^2 for no window w."
                )
        head = next((name for name in TAG_HEAD_NAMES if count_blocks(names, f"{name}.encoder.layer.")), None)
        if head is None:
            raise SeeSRError("RAM weights: the tag head is missing, so the sizes cannot be read.")
        label_width = shape("label_embed", 2)[1]
        first_mlp = shape(f"{swin}.layers.0.blocks.0.mlp.fc1.weight", 2)
        tag_hidden, tag_width = shape(f"{head}.encoder.layer.0.intermediate.dense.weight", 2)
        config = cls(
            image_size=_image_size(shapes, patch_size, windows),
            patch_size=patch_size,
            embed_dim=embed_dim,
            depths=tuple(count_blocks(names, f"{swin}.layers.{i}.blocks.") for i in range(stages)),
            num_heads=tuple(heads for _, heads in tables),
            window_size=windows[0],
            mlp_ratio=first_mlp[0] // first_mlp[1],
            soft_prompt_width=shape("image_proj.weight", 2)[0],
            num_classes=shape("label_embed", 2)[0],
            label_width=label_width,
            tag_width=tag_width,
            tag_hidden=tag_hidden,
            tag_layers=PUBLISHED_TAG_LAYERS if head == "tag_encoder" else count_blocks(names, f"{head}.encoder.layer."),
        )
        # SeeSR was trained on this network's soft prompt of 145 tokens.
        encoders = [(c.embed_dim, c.depths, c.num_heads) for c in (config, PUBLISHED_DAPE)]
        if encoders[0] == encoders[1] and config.tokens != PUBLISHED_DAPE.tokens:
            raise SeeSRError(
                f"RAM weights: the position bias tables are for windows of {config.window_size} patches, so for "
                f"pictures of {config.image_size} px, and SeeSR needs RAM for {PUBLISHED_DAPE.image_size} px; "
                "use ram_swin_large_14m.pth."
            )
        return config


def _fits(resolution: int, window: int, stages: int) -> bool:
    """Tell whether each stage divides into windows and, except the last, into pairs of patches."""
    sides = [resolution >> stage for stage in range(stages)]
    return resolution % (1 << (stages - 1)) == 0 and all(side > 0 and side % min(window, side) == 0 for side in sides)


def _image_size(shapes: Shapes, patch_size: int, windows: list[int]) -> int:
    """Return the side of the image in pixels, as far as the file tells it (see :meth:`DapeConfig.from_shapes`)."""
    for stage, window in enumerate(windows):
        pixels = patch_size << stage  # of one patch of this stage
        blocks = f"visual_encoder.layers.{stage}.blocks"
        mask = shapes.get(f"{blocks}.1.attn_mask") or shapes.get(f"{blocks}.0.attn_mask")
        if mask:  # one mask per window; published ones are in every second block
            return math.isqrt(mask[0]) * window * pixels
        if window < windows[0]:  # a stage smaller than the window
            return window * pixels
    return windows[-1] * (patch_size << (len(windows) - 1))


PUBLISHED_DAPE = DapeConfig(
    image_size=384,
    patch_size=4,
    embed_dim=192,
    depths=(2, 2, 18, 2),
    num_heads=(6, 12, 24, 48),
    window_size=12,
    mlp_ratio=4,
    soft_prompt_width=512,
    num_classes=4585,
    label_width=512,
    tag_width=768,
    tag_hidden=3072,
    tag_layers=2,
)
