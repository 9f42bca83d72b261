"""The work that :mod:`.loading` measures, one kind per process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..seesr_modules.errors import SeeSRError
from ..seesr_modules.published import DAPE, RAM, SEESR
from .process import report, touch

PACKED = {kind: f"packed/{kind}_fp16.safetensors" for kind in ("seesr", "dape")}
"""Packed files in the folder."""


def main(arguments: Sequence[str]) -> None:
    """Do one kind of work on the files of a folder, and report its cost. Arguments: the work, the folder."""
    works = {"plain": _load_plain, "image_attention": _read_image_attention, "pack": _pack, "packed": _load_packed}
    works[arguments[0]](Path(arguments[1]))


def seesr_path(part: str) -> str:
    """Return the published path of the weights of ``unet`` or ``controlnet``."""
    return next(file.path for file in SEESR if file.path.endswith(f"/{part}/diffusion_pytorch_model.safetensors"))


def _load_plain(folder: Path) -> None:
    """Load each published file whole, and copy its tensors into the modules."""
    import torch
    from safetensors.torch import load_file

    from ..seesr_modules.config import SD2
    from ..seesr_modules.dape.config import DapeConfig
    from ..seesr_modules.dape.tagger import Dape
    from ..seesr_modules.dape.weights import published_name
    from ..train.denoiser import SeeSRDenoiser

    def work() -> object:
        ram = torch.load(folder / RAM.path, map_location="cpu")["model"]
        torch.load(folder / DAPE.path, map_location="cpu")
        config = DapeConfig.from_shapes({name: tuple(tensor.shape) for name, tensor in ram.items()})
        dape = Dape(config, device="meta").to_empty(device="cpu")
        dape.load_state_dict({name: ram[published_name(name)] for name in dape.state_dict()})
        del ram
        with torch.device("meta"):
            seesr = SeeSRDenoiser(SD2)
        seesr.to_empty(device="cpu")  # skips drawing random weights
        seesr.unet.load_state_dict(load_file(folder / seesr_path("unet")))
        seesr.controlnet.load_state_dict(load_file(folder / seesr_path("controlnet")))
        return dape, seesr

    report(work)


def _read_image_attention(folder: Path) -> None:
    """Read the image attention out of the published UNet, in float32 as stored."""
    from ..seesr_modules.weights import open_weights
    from ..seesr_modules.weights.checkpoint import unet_image_attention_names

    def work() -> object:
        file = open_weights(folder / seesr_path("unet"))
        tensors = dict(file.tensors(unet_image_attention_names(file.shapes())))
        touch(tensors.values())
        return tensors

    report(work)


def _pack(folder: Path) -> None:
    """Run the command `pack`. The time includes its imports."""
    from ..commands.pack import main as pack

    options = {
        "--seesr": "SeeSR",
        "--ram": RAM.path,
        "--dape": DAPE.path,
        "--tags": "",
        "--models": "",
        "--output": "packed",
    }

    def work() -> None:
        if pack([part for option, name in options.items() for part in (option, str(folder / name))]):
            raise SeeSRError("Packing failed: see above.")

    report(work)


def _load_packed(folder: Path) -> None:
    """Load both packed files with the nodes' loaders, in float16 on the CPU."""
    from ..seesr_modules.comfyui.device import start_comfyui

    start_comfyui(["--cpu"])
    from ..seesr_modules.comfyui.loading.dape import load_dape_path
    from ..seesr_modules.comfyui.loading.seesr import load_seesr_path

    def work() -> object:
        seesr, dape = (
            load_seesr_path(folder / PACKED["seesr"], "float16"),
            load_dape_path(folder / PACKED["dape"], None, "float16"),
        )
        for network in (seesr.image_attention.model, seesr.controlnet.control_model, dape.patcher.model):
            touch(network.parameters())
        return seesr, dape

    report(work)
