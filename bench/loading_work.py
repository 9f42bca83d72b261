"""What :mod:`.loading` measures, but for the host's loading: one kind of work per process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..seesr_modules.errors import SeeSRError
from .process import report, touch


def main(arguments: Sequence[str]) -> None:
    """Do and report the work: ``plain``, ``image_attention`` or ``pack``, and the folder with the files."""
    work, folder = arguments[0], Path(arguments[1])
    {"plain": _plain, "image_attention": _image_attention, "pack": _pack}[work](folder)


def _plain(folder: Path) -> None:
    """Load each published file whole, then copy its tensors into the modules."""
    import torch
    from safetensors.torch import load_file

    from ..seesr_modules.config import SD2
    from ..seesr_modules.dape.tagger import Dape
    from ..seesr_modules.dape.weights import published_name
    from ..train.denoiser import SeeSRDenoiser
    from .published_files import CONFIG, CONTROLNET, DAPE_FILE, RAM_FILE, UNET

    def work() -> object:
        ram = torch.load(folder / RAM_FILE, map_location="cpu")["model"]
        torch.load(folder / DAPE_FILE, map_location="cpu")
        dape = Dape(CONFIG, device="meta").to_empty(device="cpu")
        dape.load_state_dict({name: ram[published_name(name)] for name in dape.state_dict()})
        del ram
        with torch.device("meta"):
            seesr = SeeSRDenoiser(SD2)
        seesr.to_empty(device="cpu")  # without the time for random weights
        seesr.unet.load_state_dict(load_file(folder / UNET))
        seesr.controlnet.load_state_dict(load_file(folder / CONTROLNET))
        return dape, seesr

    report(work)


def _image_attention(folder: Path) -> None:
    """Read the image attention, in float32 as stored, out of the published UNet."""
    from ..seesr_modules.weights import open_weights
    from ..seesr_modules.weights.checkpoint import unet_image_attention_names
    from .published_files import UNET

    def work() -> object:
        file = open_weights(folder / UNET)
        tensors = dict(file.tensors(unet_image_attention_names(file.shapes())))
        touch(tensors.values())
        return tensors

    report(work)


def _pack(folder: Path) -> None:
    """Run the command `pack`; its imports count, too."""
    from ..commands.pack import main as pack

    options = {
        "--seesr": "SeeSR",
        "--ram": "ram_swin_large_14m.pth",
        "--dape": "DAPE.pth",
        "--tags": "",
        "--models": "",
        "--output": "packed",
    }

    def work() -> None:
        if pack([part for option, name in options.items() for part in (option, str(folder / name))]):
            raise SeeSRError("packing failed: see above.")

    report(work)
