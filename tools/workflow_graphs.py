"""The shipped workflows as data; ``workflows.py`` writes them as files.

A new workflow is a :class:`Graph`, mostly another one with a few changes, in ``GRAPHS``, with its note in English and
Chinese: ``workflows/notes/NAME.md`` and ``NAME.zh.md``. A preset needs no graph here, see :func:`from_preset`.
Workflows that combine SeeSR with nodes of other kinds are in ``workflow_chains.py``. An input that is not given keeps
the node's default. The page does not translate workflows, so titles of groups and nodes are in English and Chinese.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..commands.presets import PRESETS

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
    """A workflow: its groups (title -> nodes) from left to right, which the page numbers.

    ``models`` are the arguments of `run.py download` that fetch its files. With ``form`` newer pages show the workflow
    as an app: a form of these inputs (key of a node, name) in place of the graph.
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

    def named(self, name: str, models: str | None = None, form: tuple[tuple[str, str], ...] = ()) -> Graph:
        """Return the same graph as another workflow."""
        return replace(self, name=name, models=self.models if models is None else models, form=form)

    def set_inputs(self, **nodes: Mapping[str, Link | str | float | bool]) -> Graph:
        """Return the graph with other inputs in the nodes whose keys are given."""
        self._require(*nodes)
        return self._with_groups(
            lambda group: {
                key: replace(node, inputs={**node.inputs, **nodes.get(key, {})}) for key, node in group.items()
            }
        )

    def add_nodes(self, after: str, **nodes: Node) -> Graph:
        """Return the graph with more nodes in the group of the node ``after``, below it."""
        self._require(after)
        return self._with_groups(
            lambda group: {
                key: node
                for at, found in group.items()
                for key, node in ({at: found, **nodes} if at == after else {at: found}).items()
            }
        )

    def add_group(self, title: str, nodes: Group, before: str) -> Graph:
        """Return the graph with one more group in front of the group ``before``."""
        groups = list(self.groups.items())
        groups.insert(list(self.groups).index(before), (title, nodes))
        return replace(self, groups=dict(groups))

    def remove(self, *keys: str) -> Graph:
        """Return the graph without these nodes; links to them have to be set anew."""
        self._require(*keys)
        return self._with_groups(lambda group: {key: node for key, node in group.items() if key not in keys})

    def _with_groups(self, change: Callable[[Group], Group]) -> Graph:
        return replace(self, groups={title: change(group) for title, group in self.groups.items()})

    def _require(self, *keys: str) -> None:
        if strange := set(keys) - {key for group in self.groups.values() for key in group}:
            raise KeyError(f"{self.name} has no nodes {sorted(strange)}")


def node(type_: str, title: str | None = None, **inputs: Link | str | float | bool) -> Node:
    """Return a node of the class ``type_``."""
    return Node(type_, inputs, title)


LOAD, PREPARE, RESTORE, SAVE = "Load 加载", "Prepare 准备", "Restore 修复", "Save 保存"

BASE = Graph(
    "",
    {
        LOAD: {
            "checkpoint": node(
                "CheckpointLoaderSimple",
            ),
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
                gray="auto",
            ),
            "save": node("SaveImage", images=("fix", "image"), filename_prefix="SeeSR"),
            "plain": node("PreviewImage", "Plain upscale 直接放大", images=("embed", "hint")),
        },
    },
)


def from_preset(name: str) -> Graph:
    """Return the workflow of a preset: BASE with the preset's base model, sampling settings and guidance interval."""
    preset = PRESETS[name]
    graph = BASE.named(preset.workflow, preset.download).set_inputs(
        sampler={
            "steps": preset.steps,
            "cfg": preset.cfg,
            "sampler_name": preset.sampler,
            "scheduler": preset.scheduler,
        }
    )
    if preset.checkpoint:
        graph = graph.set_inputs(checkpoint={"ckpt_name": preset.checkpoint})
    if preset.guidance != (0.0, 1.0):
        start, end = preset.guidance
        interval = node("SeeSR_GuidanceInterval", model=("apply", "model"), start_percent=start, end_percent=end)
        graph = graph.add_nodes(after="apply", interval=interval).set_inputs(sampler={"model": ("interval", "model")})
    return graph


def add_fidelity(graph: Graph, strength: Link | float) -> Graph:
    """Return a preset's workflow with Fidelity in front of each sampler. Its strength 0 changes nothing."""
    restoring = graph.groups[RESTORE]
    samplers = [key for key, found in restoring.items() if found.type == "SeeSR_TiledSampler"]
    above = "embed"
    for key, name in zip(samplers, ("fidelity", "pixel_fidelity"), strict=False):
        model = restoring[key].inputs["model"]
        assert isinstance(model, tuple)
        fidelity = node("SeeSR_Fidelity", model=model, latent=("embed", "latent"), strength=strength, detail_px=8.0)
        after = model[0] if model[0] in restoring else above
        graph = graph.add_nodes(after=after, **{name: fidelity}).set_inputs(**{key: {"model": (name, "model")}})
        above = key
    return graph


BY_PRESET = {name: from_preset(name) for name in PRESETS}
UPSCALE = BY_PRESET["published"]  # of which most other workflows are made

BY_PRESET["turbo"] = BY_PRESET["turbo"].set_inputs(sampler={"overlap_px": 256})
BY_PRESET["nano"] = (
    BY_PRESET["nano"]
    .add_nodes(after="dape", nano=node("SeeSR_LoadNano"))
    .remove("checkpoint", "seesr", "dape")
    .add_nodes(after="photo", damage=node("SeeSR_EstimateDamage", image=("photo", "IMAGE")))
    .set_inputs(
        sampler={"tile_px": 384, "overlap_px": 64},
        tagger={"dape": ("nano", "dape")},
        prompts={"clip": ("nano", "clip")},
        embed={"vae": ("nano", "vae")},
        apply={"model": ("nano", "model"), "seesr": ("nano", "seesr")},
        decode={"vae": ("nano", "vae"), "hint": ("embed", "hint"), "fidelity": ("damage", "fidelity")},
        fix={"image": ("project", "image"), "method": "wavelet"},
    )
    .add_nodes(
        after="decode",
        project=node(
            "SeeSR_BackProjection",
            image=("decode", "image"),
            photo=("photo", "IMAGE"),
            strength=("damage", "back_projection"),
        ),
    )
    .add_nodes(after="fix", grain=node("SeeSR_FilmGrain", image=("fix", "image"), strength=("damage", "grain")))
    .set_inputs(save={"images": ("grain", "image")})
)

BY_PRESET["onestep"] = (
    BY_PRESET["onestep"]
    .add_nodes(
        after="checkpoint",
        onestep=node("SeeSR_LoadOneStep", model=("checkpoint", "MODEL"), vae=("checkpoint", "VAE"), file="osediff.pkl"),
    )
    .remove("seesr", "apply", "tagger", "prompts")
    .add_nodes(
        after="embed",
        tagger=node("SeeSR_Tagger", dape=("dape", "dape"), image=("embed", "hint")),
        prompts=node(
            "SeeSR_BuildPrompts",
            clip=("checkpoint", "CLIP"),
            tags=("tagger", "tags"),
            quality_prompt="",
            negative_prompt="",
            single_chunk=True,
        ),
    )
    .set_inputs(
        embed={"vae": ("onestep", "vae")},
        sampler={
            "model": ("onestep", "model"),
            "positive": ("prompts", "positive"),
            "negative": ("prompts", "negative"),
            "overlap_px": 256,
        },
        decode={"vae": ("onestep", "vae")},
    )
)
BY_PRESET["onestep_pisa"] = (
    BY_PRESET["onestep_pisa"]
    .add_nodes(
        after="checkpoint",
        both=node(
            "SeeSR_LoadOneStep",
            "Both passes 双重遍",
            model=("checkpoint", "MODEL"),
            vae=("checkpoint", "VAE"),
            file="pisa_sr.pkl",
        ),
        pixel=node(
            "SeeSR_LoadOneStep",
            "Pixel pass 像素遍",
            model=("checkpoint", "MODEL"),
            vae=("checkpoint", "VAE"),
            file="pisa_sr.pkl",
            semantic=0.0,
        ),
    )
    .remove("seesr", "dape", "tagger", "apply")
    .set_inputs(
        prompts={"tags": "", "quality_prompt": "", "negative_prompt": ""},
        sampler={
            "model": ("both", "model"),
            "positive": ("prompts", "positive"),
            "negative": ("prompts", "negative"),
            "overlap_px": 256,
        },
    )
)
PISA_SAMPLER = BY_PRESET["onestep_pisa"].groups[RESTORE]["sampler"]
BY_PRESET["onestep_pisa"] = (
    BY_PRESET["onestep_pisa"]
    .add_nodes(
        after="sampler",
        pixel_sampler=node(
            PISA_SAMPLER.type, "Pixel sampler 像素采样", **{**PISA_SAMPLER.inputs, "model": ("pixel", "model")}
        ),
        sliders=node(
            "SeeSR_PisaSliders",
            latent=("embed", "latent"),
            pixel_pass=("pixel_sampler", "latent"),
            both_pass=("sampler", "latent"),
        ),
    )
    .set_inputs(decode={"latent": ("sliders", "latent")})
)

APP = BY_PRESET["balanced"].named(
    "seesr_app",
    form=(
        ("photo", "image"),
        ("embed", "upscale"),
        ("prompts", "user_prompt"),
        ("apply", "strength"),
        ("sampler", "seed"),
    ),
)

LARGE_PHOTO = (
    UPSCALE.named("seesr_large_photo")
    .remove("tagger", "prompts")
    .add_nodes(
        after="embed",
        tiles=node("SeeSR_TileTagger", dape=("dape", "dape"), clip=("checkpoint", "CLIP"), hint=("embed", "hint")),
    )
    .set_inputs(
        embed={"upscale": 2.0},
        apply={
            "positive": ("tiles", "positive"),
            "negative": ("tiles", "negative"),
            "soft_prompt": ("tiles", "soft_prompt"),
        },
    )
)

MANUAL_PROMPT = UPSCALE.named("seesr_manual_prompt").set_inputs(
    prompts={"tags": "", "user_prompt": "portrait of an elderly man, grey beard, woollen coat, wrinkled skin"},
)

COMFYUI_SAMPLER = (
    UPSCALE.named("seesr_host_sampler")
    .remove("sampler")
    .add_nodes(
        after="apply",
        tiled=node("SeeSR_TiledModel", model=("apply", "model")),
        noise=node("RandomNoise", noise_seed=0),
        guider=node(
            "CFGGuider",
            model=("tiled", "model"),
            positive=("apply", "positive"),
            negative=("apply", "negative"),
            cfg=5.5,
        ),
        method=node("KSamplerSelect", sampler_name="ddpm"),
        sigmas=node("SeeSR_Scheduler", model=("tiled", "model"), steps=50),
        sampler=node(
            "SamplerCustomAdvanced",
            noise=("noise", "NOISE"),
            guider=("guider", "GUIDER"),
            sampler=("method", "SAMPLER"),
            sigmas=("sigmas", "sigmas"),
            latent_image=("embed", "latent"),
        ),
    )
    .set_inputs(decode={"latent": ("sampler", "output")})
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

FIDELITY: dict[str, Link | float] = {"nano": ("damage", "fidelity")}
"""Preset -> strength of Fidelity, where it is not 0."""

BY_PRESET = {name: add_fidelity(graph, FIDELITY.get(name, 0.0)) for name, graph in BY_PRESET.items()}

GRAPHS = (*BY_PRESET.values(), APP, LARGE_PHOTO, MANUAL_PROMPT, COMFYUI_SAMPLER, DAPE_TAGGING)
