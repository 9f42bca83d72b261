"""Names and sockets of other packs' nodes that the workflows use. ComfyUI can load this file; nothing computes."""

from __future__ import annotations

from typing import Any

Sockets = dict[str, dict[str, Any]]


class FaceRestoreModelLoader:
    """The loader of facerestore_cf; it lists the files in ``models/facerestore_models``."""

    RETURN_TYPES = ("FACERESTORE_MODEL",)
    FUNCTION = "load_model"

    @classmethod
    def INPUT_TYPES(cls) -> Sockets:  # noqa: N802 - ComfyUI's name
        """Return the inputs."""
        return {"required": {"model_name": (["codeformer.pth"], {"default": "codeformer.pth"})}}


class FaceRestoreCFWithModel:
    """CodeFormer on every face that a detector finds; the picture keeps its size."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "restore_face"

    @classmethod
    def INPUT_TYPES(cls) -> Sockets:  # noqa: N802 - ComfyUI's name
        """Return the inputs."""
        detectors = ["retinaface_resnet50", "retinaface_mobile0.25", "YOLOv5l", "YOLOv5n"]
        return {
            "required": {
                "facerestore_model": ("FACERESTORE_MODEL",),
                "image": ("IMAGE",),
                "facedetection": (detectors, {"default": detectors[0]}),
                "codeformer_fidelity": ("FLOAT", {"default": 0.5, "min": 0.0, "max": 1, "step": 0.05}),
            }
        }


NODE_CLASS_MAPPINGS = {
    "FaceRestoreModelLoader": FaceRestoreModelLoader,
    "FaceRestoreCFWithModel": FaceRestoreCFWithModel,
}
PACK_IDS = dict.fromkeys(NODE_CLASS_MAPPINGS, "facerestore_cf")
"""Class name -> the id of its pack in the registry."""
