"""The shipped workflows as data; ``workflows.py`` writes them as files.

To add one, describe it here as a :class:`Graph`, or as a :func:`variant` of another, and put it into ``GRAPHS``; one
that chains SeeSR with nodes of other kinds goes into ``workflow_chains.py``.
What a node does not name keeps the node's own default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

Link = tuple[str, str]  # the key of a node that stands further left or above, and the name of its output
Group = Mapping[str, "Node"]  # key -> node, from the top down


@dataclass(frozen=True)
class Node:
    """A node: its class, what its inputs are set or linked to, and a title other than the class's own."""

    type: str
    inputs: Mapping[str, Link | str | float | bool]
    title: str | None = None


@dataclass(frozen=True)
class Graph:
    """A workflow: the note beside it, and its groups (title -> nodes) from left to right; the page numbers them."""

    name: str
    note: str
    groups: Mapping[str, Group]


def node(type_: str, title: str | None = None, **inputs: Link | str | float | bool) -> Node:
    """Return a node of the class ``type_``."""
    return Node(type_, inputs, title)


def variant(
    base: Graph,
    name: str,
    note: str,
    groups: Mapping[str, Group] | None = None,
    before: tuple[str, str, Group] | None = None,
    **changed: Mapping,
) -> Graph:
    """Return ``base`` with some groups replaced, and with other inputs in the nodes whose keys are given.

    ``before`` puts one more group in: in front of the first title, under the second.
    """
    merged: dict[str, Group] = {}
    for title, group in {**base.groups, **(groups or {})}.items():
        if before is not None and before[0] == title:
            merged[before[1]] = before[2]
        merged[title] = group
    if strange := changed.keys() - {key for group in merged.values() for key in group}:
        raise KeyError(f"{name} changes nodes that are not there: {sorted(strange)}")
    return Graph(
        name,
        note,
        {
            title: {
                key: replace(found, inputs={**found.inputs, **changed.get(key, {})}) for key, found in group.items()
            }
            for title, group in merged.items()
        },
    )


LOAD, UNDERSTAND, PREPARE, RESTORE, SAVE = "Load", "Understand", "Prepare", "Restore", "Save and compare"

WEIGHTS = """
## The models
In the folder of this node pack:

`python run.py download seesr base --pack`

fetches SeeSR, DAPE and RAM (12 GB) and Stable Diffusion 2 base (5 GB) into ComfyUI's model folders, packs the first \
three into 1.9 GB and deletes what it packed (`--keep` keeps it). Then press **R**, so that Load Checkpoint lists its \
file. `auto` in Load SeeSR and Load DAPE takes what is there, packed or not.
"""

TURBO_WEIGHTS = """
## The models
In the folder of this node pack:

`python run.py download seesr turbo --accept-license --pack`

fetches SeeSR, DAPE and RAM (12 GB) and SD-Turbo (5 GB) into ComfyUI's model folders, packs the first three into 1.9 \
GB and deletes what it packed (`--keep` keeps it). SD-Turbo has a licence of its own, which you accept by this: read \
it first at [its page](https://huggingface.co/stabilityai/sd-turbo). Then press **R**, so that Load Checkpoint lists \
its file. `auto` in Load SeeSR and Load DAPE takes what is there, packed or not.
"""

TAGGER_WEIGHTS = """
## The models
In the folder of this node pack:

`python run.py download seesr --pack`

fetches SeeSR, DAPE and RAM (12 GB) into ComfyUI's model folders, packs them into 1.9 GB and deletes what it packed \
(`--keep` keeps it). `auto` in Load DAPE takes what is there, packed or not.
"""

UPSCALE = Graph(
    "seesr_upscale",
    """# SeeSR upscale
Restores and enlarges a badly degraded photo: DAPE names what is in it, and Stable Diffusion 2 paints it anew under \
SeeSR's guidance. These are the published settings.

## First
1. Get the models (below).
2. Choose your photo in **Load Image**.
3. Run.

## What to change
- **LR Embed, upscale**: how much larger the result is.
- **Build Prompts, user_prompt**: what the tags miss.
- **Tiled Sampler, cfg**: less keeps closer to the photo, more invents more detail.
- **SeeSR ControlNet Apply, strength**: how strictly the photo is followed.
- Out of memory: a smaller **tile_px**.
"""
    + WEIGHTS,
    {
        LOAD: {
            "checkpoint": node("CheckpointLoaderSimple", ckpt_name="512-base-ema.ckpt"),
            "seesr": node("SeeSR_LoadModel"),
            "dape": node("SeeSR_LoadDAPE"),
            "photo": node("LoadImage", image="example.png"),
        },
        UNDERSTAND: {
            "tagger": node("SeeSR_Tagger", dape=("dape", "dape"), image=("photo", "IMAGE")),
            "prompts": node("SeeSR_BuildPrompts", clip=("checkpoint", "CLIP"), tags=("tagger", "tags")),
        },
        PREPARE: {
            "embed": node("SeeSR_LREmbed", image=("photo", "IMAGE"), vae=("checkpoint", "VAE")),
            "apply": node(
                "SeeSR_ControlNetApply",
                model=("checkpoint", "MODEL"),
                seesr=("seesr", "seesr"),
                positive=("prompts", "positive"),
                negative=("prompts", "negative"),
                hint=("embed", "hint"),
                soft_prompt=("tagger", "soft_prompt"),
            ),
        },
        RESTORE: {
            "sampler": node(
                "SeeSR_TiledSampler",
                model=("apply", "model"),
                positive=("apply", "positive"),
                negative=("apply", "negative"),
                latent=("embed", "latent"),
                steps=50,
                cfg=5.5,
                sampler_name="ddpm",
                scheduler="seesr",
            ),
            "decode": node("SeeSR_VAEDecode", latent=("sampler", "latent"), vae=("checkpoint", "VAE")),
        },
        SAVE: {
            "fix": node(
                "SeeSR_ColorFix",
                image=("decode", "image"),
                reference=("embed", "hint"),
                width=("embed", "width"),
                height=("embed", "height"),
            ),
            "save": node("SaveImage", images=("fix", "image"), filename_prefix="SeeSR"),
            # Both in one preview, of one size: a click on a picture there, then flipping, shows what has changed.
            "pair": node("ImageBatch", "Result and plain upscale", image1=("fix", "image"), image2=("embed", "hint")),
            "compare": node("PreviewImage", "Compare: click, then flip", images=("pair", "IMAGE")),
        },
    },
)

NANO = variant(
    UPSCALE,
    "seesr_nano",
    """# SeeSR nano
The small model that comes with this node pack: nothing to download, and done within a minute even without a GPU. It \
shows what each step does; for the quality of the paper take **seesr_upscale** or **seesr_balanced**, whose nodes are \
the same behind other loaders.

## First
1. Choose your photo in **Load Image**: a small one, some 128 to 512 pixels wide.
2. Run.

## What to change
- **LR Embed, upscale**: how much larger the result is.
- **Tiled Sampler, steps**: 1 is the most faithful and the smoothest; 4 to 8 give more texture and less fidelity.
- **DAPE Tagger**: click a tag to leave it out.
- **SeeSR ControlNet Apply, strength**: 0 shows what the model paints without looking at the photo.
""",
    {
        LOAD: {"nano": node("SeeSR_LoadNano"), "photo": UPSCALE.groups[LOAD]["photo"]},
    },
    tagger={"dape": ("nano", "dape")},
    prompts={"clip": ("nano", "clip")},
    embed={"vae": ("nano", "vae")},
    apply={"model": ("nano", "model"), "seesr": ("nano", "seesr")},
    sampler={"steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "sgm_uniform"},
    decode={"vae": ("nano", "vae")},
    fix={"method": "wavelet"},
)

BALANCED = variant(
    UPSCALE,
    "seesr_balanced",
    """# SeeSR balanced
As **seesr_upscale** at about a quarter of its cost: 18 steps of a second-order solver (dpmpp_2m) on the karras \
schedule, guided only where there is much noise.

## First
1. Get the models (below).
2. Choose your photo in **Load Image**.
3. Run.

## What to change
- **LR Embed, upscale**: how much larger the result is.
- **Tiled Sampler, steps**: 12 is faster still, 25 finer.
- **Guidance Interval, end_percent**: 1 guides to the end, for more detail and at a higher cost.
- **Tiled Sampler, cfg**: less keeps closer to the photo, more invents more detail.
- Out of memory: a smaller **tile_px**.
"""
    + WEIGHTS,
    {
        RESTORE: {
            "interval": node("SeeSR_GuidanceInterval", model=("apply", "model"), start_percent=0.0, end_percent=0.6),
            **UPSCALE.groups[RESTORE],
        },
    },
    sampler={"model": ("interval", "model"), "steps": 18, "sampler_name": "dpmpp_2m", "scheduler": "karras"},
)

LARGE_PHOTO = variant(
    UPSCALE,
    "seesr_large_photo",
    """# SeeSR for large photos
As **seesr_upscale**, where different things stand in different places: **DAPE Tile Tagger** looks at every tile by \
itself, so that a face far off is not described by the sky. In a portrait, where one thing fills many tiles, \
**seesr_upscale** is the better choice.

## First
1. Get the models (below).
2. Choose your photo in **Load Image**.
3. Run.

## What to change
- **tile_px** and **overlap_px**: the same in **DAPE Tile Tagger** and **Tiled Sampler**.
- **DAPE Tile Tagger, context**: how far the tags of the whole photo count in a tile; 0 puts all of them into every \
tile.
- **LR Embed, upscale**: 2 is often enough for a photo of several megapixels.
- Out of memory: a smaller **tile_px**, in both.
"""
    + WEIGHTS,
    {
        UNDERSTAND: {
            "embed": UPSCALE.groups[PREPARE]["embed"],
            "tiles": node(
                "SeeSR_TileTagger", dape=("dape", "dape"), clip=("checkpoint", "CLIP"), hint=("embed", "hint")
            ),
        },
        PREPARE: {"apply": UPSCALE.groups[PREPARE]["apply"]},
    },
    embed={"upscale": 2.0},
    apply={
        "positive": ("tiles", "positive"),
        "negative": ("tiles", "negative"),
        "soft_prompt": ("tiles", "soft_prompt"),
    },
)

TURBO = variant(
    UPSCALE,
    "seesr_turbo",
    """# SeeSR turbo
Two steps on SD-Turbo: the fastest way, less detail than **seesr_upscale**.

## First
1. Get the models (below).
2. Choose your photo in **Load Image**.
3. Run.

## What to change
- **LR Embed, upscale**: how much larger the result is.
- **Build Prompts, user_prompt**: what the tags miss.
- Leave **cfg** at 1.0: SD-Turbo is made for it, and the negative prompt has no effect there.
- Leave **scheduler** at seesr_trailing, SD-Turbo's own schedule: seesr leaves noise in the picture.
- Leave **overlap_px** wide: two steps leave tiles little chance to grow together.
"""
    + TURBO_WEIGHTS,
    checkpoint={"ckpt_name": "sd_turbo.safetensors"},
    sampler={"steps": 2, "cfg": 1.0, "scheduler": "seesr_trailing", "overlap_px": 256},
)

MANUAL_PROMPT = variant(
    UPSCALE,
    "seesr_manual_prompt",
    """# SeeSR with your own prompt
As **seesr_upscale**, but the text is yours: the tags stay out of the prompt. What DAPE sees still reaches the model \
as the soft prompt.

## First
1. Get the models (below).
2. Choose your photo in **Load Image**.
3. Say what is in it in **Build Prompts, user_prompt**: plain words for things and materials, in English.
4. Run.

## What to change
- **SeeSR ControlNet Apply, soft_prompt_strength**: 0 leaves DAPE out altogether.
- **Build Prompts, negative_prompt**: what you do not want.
- To have the tags back, link **DAPE Tagger, tags** to **Build Prompts, tags**.
"""
    + WEIGHTS,
    prompts={"tags": "", "user_prompt": "portrait of an elderly man, grey beard, woollen coat, wrinkled skin"},
)

HOST_SAMPLER = variant(
    UPSCALE,
    "seesr_host_sampler",
    """# SeeSR with ComfyUI's own sampler
As **seesr_upscale**, with SamplerCustomAdvanced in place of Tiled Sampler: take this one to use another guider, \
sampler or noise. **Tiled Diffusion (model)** does the tiling, **SeeSR Scheduler** gives the published schedule.

## First
1. Get the models (below).
2. Choose your photo in **Load Image**.
3. Run.

## What to change
- **KSamplerSelect**: any of ComfyUI's samplers.
- **SeeSR Scheduler, steps**, or any other scheduler in its place.
- **CFGGuider**: any other guider that takes the model and the conditioning.
- KSampler works as well; there the schedule nearest to SeeSR's is ddim_uniform.
"""
    + WEIGHTS,
    {
        PREPARE: {
            **UPSCALE.groups[PREPARE],
            "tiled": node("SeeSR_TiledModel", model=("apply", "model")),
        },
        RESTORE: {
            "noise": node("RandomNoise", noise_seed=0),
            "guider": node(
                "CFGGuider",
                model=("tiled", "model"),
                positive=("apply", "positive"),
                negative=("apply", "negative"),
                cfg=5.5,
            ),
            "method": node("KSamplerSelect", sampler_name="ddpm"),
            "sigmas": node("SeeSR_Scheduler", model=("tiled", "model"), steps=50),
            "sampler": node(
                "SamplerCustomAdvanced",
                noise=("noise", "NOISE"),
                guider=("guider", "GUIDER"),
                sampler=("method", "SAMPLER"),
                sigmas=("sigmas", "sigmas"),
                latent_image=("embed", "latent"),
            ),
            "decode": node("SeeSR_VAEDecode", latent=("sampler", "output"), vae=("checkpoint", "VAE")),
        },
    },
)

DAPE_TAGGING = Graph(
    "dape_tagging",
    """# DAPE tagging
Names what is in a degraded photo, and nothing else: no Stable Diffusion is loaded.

## First
1. Get the models (below).
2. Choose your photo in **Load Image**.
3. Run.

## What to change
- **DAPE Tagger, threshold_offset**: above 0 fewer and surer tags, below 0 more.
- **DAPE Tagger, language**: English or Chinese.
- **Load DAPE, dape**: none tags with plain RAM, to compare.
"""
    + TAGGER_WEIGHTS,
    {
        LOAD: {key: UPSCALE.groups[LOAD][key] for key in ("dape", "photo")},
        UNDERSTAND: {"tagger": UPSCALE.groups[UNDERSTAND]["tagger"]},
        "Read": {"tags": node("PreviewAny", "Tags", source=("tagger", "tags"))},
    },
)

GRAPHS = (NANO, UPSCALE, BALANCED, TURBO, LARGE_PHOTO, MANUAL_PROMPT, HOST_SAMPLER, DAPE_TAGGING)
