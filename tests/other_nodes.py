"""Nodes of other packs, with their names and sockets and results that are easy to follow."""

from __future__ import annotations

from typing import Any

from seesr_pack.tools import other_nodes
from torch import Tensor

Sockets = dict[str, dict[str, Any]]


class Florence2Run:
    """Florence-2's captions (ComfyUI-Florence2): one text, or for a batch a list of texts as one value."""

    RETURN_TYPES = ("IMAGE", "MASK", "STRING", "JSON")
    RETURN_NAMES = ("image", "mask", "caption", "data")
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> Sockets:  # noqa: N802 - ComfyUI's name
        return {"required": {"image": ("IMAGE",)}}

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor, Any, list[Any]]:
        texts = [f"a blurry photo of thing {i}" for i in range(len(image))]
        return image, image[..., 0], texts if len(texts) > 1 else texts[0], []


class BlipAnalyzeImage:
    """BLIP's captions (WAS Node Suite): all texts as one, and a list of them."""

    RETURN_TYPES = ("STRING", "STRING")
    RETURN_NAMES = ("FULL_CAPTIONS", "CAPTIONS")
    OUTPUT_IS_LIST = (False, True)
    FUNCTION = "blip_caption_image"

    @classmethod
    def INPUT_TYPES(cls) -> Sockets:  # noqa: N802 - ComfyUI's name
        return {"required": {"images": ("IMAGE",)}}

    def blip_caption_image(self, images: Tensor) -> tuple[str, list[str]]:
        texts = [f"a noisy photo of thing {i}" for i in range(len(images))]
        return "\n".join(texts), texts


class WD14Tagger:
    """Tags of WD14 Tagger: a list with one text for each picture."""

    RETURN_TYPES = ("STRING",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "tag"

    @classmethod
    def INPUT_TYPES(cls) -> Sockets:  # noqa: N802 - ComfyUI's name
        return {"required": {"image": ("IMAGE",)}}

    def tag(self, image: Tensor) -> tuple[list[str]]:
        return ([f"thing {i}, blurry, film grain" for i in range(len(image))],)


CAPTIONERS = {
    "Florence2Run": (Florence2Run, "image", 2, "a clear photo of thing {}"),
    "BLIP Analyze Image": (BlipAnalyzeImage, "images", 1, "a clean photo of thing {}"),
    "WD14Tagger|pysssss": (WD14Tagger, "image", 0, "thing {}, clear"),
}
"""Class name -> class, its input, its output with the texts, and each picture's text once it is repaired."""


class FaceRestoreModelLoader(other_nodes.FaceRestoreModelLoader):
    """Loads nothing."""

    def load_model(self, model_name: str) -> tuple[str]:
        return (model_name,)


class FaceRestoreCFWithModel(other_nodes.FaceRestoreCFWithModel):
    """Inverts the picture."""

    def restore_face(
        self, facerestore_model: str, image: Tensor, facedetection: str, codeformer_fidelity: float
    ) -> tuple[Tensor]:
        assert (facerestore_model, facedetection) == ("codeformer.pth", "retinaface_resnet50")
        assert 0 <= codeformer_fidelity <= 1
        return (1 - image,)


FACE_NODES = {node.__name__: node for node in (FaceRestoreModelLoader, FaceRestoreCFWithModel)}
"""Those of facerestore_cf that a shipped workflow uses."""
