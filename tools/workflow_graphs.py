"""The shipped workflows as data; ``workflows.py`` writes them as files.

To add one, describe it here as a :class:`Graph`, or as a :func:`variant` of another, put it into ``GRAPHS``, and write
its note in English and Chinese: ``workflows/notes/NAME.md`` and ``NAME.zh.md``. A workflow that chains SeeSR with nodes
of other kinds goes into ``workflow_chains.py``. What a node does not name keeps the node's own default.
The page does not translate a workflow, so titles of groups and nodes are English and Chinese at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

NOTES = Path(__file__).resolve().parents[1] / "workflows" / "notes"
LANGUAGES = ("", ".zh")  # endings of the notes' names: English, Chinese

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
    """A workflow: its groups (title -> nodes) from left to right, which the page shows with numbers.

    ``models`` is what `run.py download` has to fetch for it. ``form`` makes it an app: the inputs (key of a node, name)
    that newer pages ask for, in place of the graph.
    """

    name: str
    groups: Mapping[str, Group]
    models: str = "seesr base"
    form: tuple[tuple[str, str], ...] = ()

    @property
    def note(self) -> str:
        """The Markdown text beside the graph, in every language; its first line is the workflow's title."""
        return "\n---\n\n".join(
            (NOTES / f"{self.name}{language}.md")
            .read_text("utf-8")
            .replace("{models}", (NOTES / f"models{language}.md").read_text("utf-8").strip())
            .replace("{targets}", self.models)
            for language in LANGUAGES
        )

    @property
    def title(self) -> str:
        """The workflow's name in words."""
        return self.note.partition("\n")[0].removeprefix("# ")


def node(type_: str, title: str | None = None, **inputs: Link | str | float | bool) -> Node:
    """Return a node of the class ``type_``."""
    return Node(type_, inputs, title)


def variant(
    base: Graph,
    name: str,
    groups: Mapping[str, Group] | None = None,
    before: tuple[str, str, Group] | None = None,
    models: str | None = None,
    form: tuple[tuple[str, str], ...] = (),
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
        {
            title: {
                key: replace(found, inputs={**found.inputs, **changed.get(key, {})}) for key, found in group.items()
            }
            for title, group in merged.items()
        },
        models or base.models,
        form,
    )


LOAD, PREPARE, RESTORE, SAVE = "Load 加载", "Prepare 准备", "Restore 修复", "Save 保存"

UPSCALE = Graph(
    "seesr_upscale",
    {
        LOAD: {
            "checkpoint": node("CheckpointLoaderSimple", ckpt_name="512-base-ema.ckpt"),
            "seesr": node("SeeSR_LoadModel"),
            "dape": node("SeeSR_LoadDAPE"),
            "photo": node("LoadImage", image="example.png"),
        },
        PREPARE: {
            "tagger": node("SeeSR_Tagger", dape=("dape", "dape"), image=("photo", "IMAGE")),
            "prompts": node("SeeSR_BuildPrompts", clip=("checkpoint", "CLIP"), tags=("tagger", "tags")),
            "embed": node("SeeSR_LREmbed", image=("photo", "IMAGE"), vae=("checkpoint", "VAE")),
        },
        RESTORE: {
            "apply": node(
                "SeeSR_ControlNetApply",
                model=("checkpoint", "MODEL"),
                seesr=("seesr", "seesr"),
                positive=("prompts", "positive"),
                negative=("prompts", "negative"),
                hint=("embed", "hint"),
                soft_prompt=("tagger", "soft_prompt"),
            ),
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
        },
        SAVE: {
            "decode": node("SeeSR_VAEDecode", latent=("sampler", "latent"), vae=("checkpoint", "VAE")),
            "fix": node(
                "SeeSR_ColorFix",
                image=("decode", "image"),
                reference=("embed", "hint"),
                width=("embed", "width"),
                height=("embed", "height"),
            ),
            "save": node("SaveImage", images=("fix", "image"), filename_prefix="SeeSR"),
            "plain": node("PreviewImage", "Plain upscale 直接放大", images=("embed", "hint")),
        },
    },
)

NANO = variant(
    UPSCALE,
    "seesr_nano",
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
    {
        RESTORE: {
            "apply": UPSCALE.groups[RESTORE]["apply"],
            "interval": node("SeeSR_GuidanceInterval", model=("apply", "model"), start_percent=0.0, end_percent=0.6),
            "sampler": UPSCALE.groups[RESTORE]["sampler"],
        },
    },
    sampler={"model": ("interval", "model"), "steps": 18, "sampler_name": "dpmpp_2m", "scheduler": "karras"},
)

APP = variant(
    BALANCED,
    "seesr_app",
    form=(
        ("photo", "image"),
        ("embed", "upscale"),
        ("prompts", "user_prompt"),
        ("apply", "strength"),
        ("sampler", "seed"),
    ),
)

LARGE_PHOTO = variant(
    UPSCALE,
    "seesr_large_photo",
    {
        PREPARE: {
            "embed": UPSCALE.groups[PREPARE]["embed"],
            "tiles": node(
                "SeeSR_TileTagger", dape=("dape", "dape"), clip=("checkpoint", "CLIP"), hint=("embed", "hint")
            ),
        },
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
    models="seesr turbo --accept-license",
    checkpoint={"ckpt_name": "sd_turbo.safetensors"},
    sampler={"steps": 2, "cfg": 1.0, "scheduler": "seesr_trailing", "overlap_px": 256},
)

MANUAL_PROMPT = variant(
    UPSCALE,
    "seesr_manual_prompt",
    prompts={"tags": "", "user_prompt": "portrait of an elderly man, grey beard, woollen coat, wrinkled skin"},
)

HOST_SAMPLER = variant(
    UPSCALE,
    "seesr_host_sampler",
    {
        RESTORE: {
            "apply": UPSCALE.groups[RESTORE]["apply"],
            "tiled": node("SeeSR_TiledModel", model=("apply", "model")),
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
        },
    },
    decode={"latent": ("sampler", "output")},
)

DAPE_TAGGING = Graph(
    "dape_tagging",
    {
        LOAD: {key: UPSCALE.groups[LOAD][key] for key in ("dape", "photo")},
        PREPARE: {"tagger": UPSCALE.groups[PREPARE]["tagger"]},
        "Read 读取": {"tags": node("PreviewAny", "Tags 标签", source=("tagger", "tags"))},
    },
    models="seesr",
)

GRAPHS = (NANO, UPSCALE, BALANCED, APP, TURBO, LARGE_PHOTO, MANUAL_PROMPT, HOST_SAMPLER, DAPE_TAGGING)
