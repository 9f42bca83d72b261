"""The shipped workflows that combine SeeSR with nodes of other kinds, as data; see ``workflow_graphs.py``."""

from __future__ import annotations

from dataclasses import replace

from .workflow_graphs import LOAD, PREPARE, RESTORE, SAVE, UPSCALE, Graph, Group, Node, node

LORA = (
    UPSCALE.named("seesr_lora")
    .add_nodes(
        after="checkpoint",
        lora=node(
            "LoraLoader",
            model=("checkpoint", "MODEL"),
            clip=("checkpoint", "CLIP"),
            lora_name="your_sd2_lora.safetensors",
        ),
    )
    .set_inputs(prompts={"clip": ("lora", "CLIP")}, apply={"model": ("lora", "MODEL")})
)

UPSCALE_MODEL_FIRST = (
    UPSCALE.named("seesr_upscale_model_first")
    .add_group(
        "Clean 清理",
        {
            "upscaler": node("UpscaleModelLoader", model_name="RealESRGAN_x4plus.pth"),
            "cleaned": node("SeeSR_CleanFirst", upscale_model=("upscaler", "UPSCALE_MODEL"), image=("photo", "IMAGE")),
        },
        before=PREPARE,
    )
    .set_inputs(embed={"image": ("cleaned", "image")})
)

DETAIL: Group = {
    "detail_prompts": node(
        "SeeSR_BuildPrompts",
        "Prompts for the detail 细节提示词",
        clip=("checkpoint", "CLIP"),
        tags="",
        user_prompt="close-up of a face, detailed eyes, natural skin",
    ),
    "detail_apply": node(
        "SeeSR_ControlNetApply",
        "Apply to the detail 应用到细节",
        model=("checkpoint", "MODEL"),
        seesr=("seesr", "seesr"),
        positive=("detail_prompts", "positive"),
        negative=("detail_prompts", "negative"),
        hint=("embed", "hint"),
        soft_prompt=("tagger", "soft_prompt"),
        strength=0.6,
    ),
    "decode": UPSCALE.groups[SAVE]["decode"],
    "masked": node("SetLatentNoiseMask", samples=("sampler", "latent"), mask=("photo", "MASK")),
    "detail": node(
        "SeeSR_TiledSampler",
        "Sampler for the detail 细节采样",
        model=("detail_apply", "model"),
        positive=("detail_apply", "positive"),
        negative=("detail_apply", "negative"),
        latent=("masked", "LATENT"),
        steps=20,
        cfg=5.5,
        sampler_name="dpmpp_2m",
        scheduler="karras",
        denoise=0.4,
    ),
    "detail_decode": node("SeeSR_VAEDecode", latent=("detail", "latent"), vae=("checkpoint", "VAE")),
    "composite": node(
        "ImageCompositeMasked",
        destination=("decode", "image"),
        source=("detail_decode", "image"),
        x=0,
        y=0,
        resize_source=False,
        mask=("photo", "MASK"),
    ),
}

DETAIL_INPAINT = (
    UPSCALE.named("seesr_detail_inpaint")
    .remove("decode")
    .add_group("Detail 细节", DETAIL, before=SAVE)
    .set_inputs(fix={"image": ("composite", "IMAGE")})
)

OWN_CAPTION = (
    UPSCALE.named("seesr_own_caption")
    .add_nodes(
        after="tagger",
        caption=node(
            "PrimitiveStringMultiline",
            "Caption 图像描述",
            value="a photo of an elderly man in a woollen coat on a street",
        ),
        joined=node("StringConcatenate", string_a=("caption", "STRING"), string_b=("tagger", "tags"), delimiter=", "),
    )
    .set_inputs(prompts={"tags": ("joined", "STRING"), "literal": True, "repair_words": True})
)

EXTRA_CONTROLNET = (
    UPSCALE.named("seesr_extra_controlnet")
    .add_group(
        "Edges 边缘",
        {
            "other": node("ControlNetLoader", control_net_name="control_v11p_sd21_canny.safetensors"),
            "edges": node("Canny", image=("embed", "hint"), low_threshold=0.1, high_threshold=0.3),
            "held": node(
                "ControlNetApplyAdvanced",
                positive=("prompts", "positive"),
                negative=("prompts", "negative"),
                control_net=("other", "CONTROL_NET"),
                image=("edges", "IMAGE"),
                strength=0.5,
                start_percent=0.0,
                end_percent=0.6,
                vae=("checkpoint", "VAE"),
            ),
            "look": node("PreviewImage", "Edges 边缘", images=("edges", "IMAGE")),
        },
        before=RESTORE,
    )
    .set_inputs(apply={"positive": ("held", "positive"), "negative": ("held", "negative")})
)

REGIONAL_PROMPTS = (
    UPSCALE.named("seesr_regional_prompts")
    .add_group(
        "Regions 分区",
        {
            "inside_text": node(
                "CLIPTextEncode",
                "Text inside the mask 遮罩内文本",
                clip=("checkpoint", "CLIP"),
                text="face of an elderly man, wrinkled skin, grey beard",
            ),
            "inside": node(
                "ConditioningSetMask",
                conditioning=("inside_text", "CONDITIONING"),
                mask=("photo", "MASK"),
                strength=1.0,
                set_cond_area="default",
            ),
            "rest": node("InvertMask", mask=("photo", "MASK")),
            "outside_text": node(
                "CLIPTextEncode",
                "Text outside the mask 遮罩外文本",
                clip=("checkpoint", "CLIP"),
                text="street with brick houses, cobblestones, overcast sky",
            ),
            "outside": node(
                "ConditioningSetMask",
                conditioning=("outside_text", "CONDITIONING"),
                mask=("rest", "MASK"),
                strength=1.0,
                set_cond_area="default",
            ),
            "parts": node(
                "ConditioningCombine",
                conditioning_1=("inside", "CONDITIONING"),
                conditioning_2=("outside", "CONDITIONING"),
            ),
            "everything": node(
                "ConditioningCombine",
                conditioning_1=("prompts", "positive"),
                conditioning_2=("parts", "CONDITIONING"),
            ),
        },
        before=RESTORE,
    )
    .set_inputs(apply={"positive": ("everything", "CONDITIONING")})
)

INVENTION_MAP = (
    UPSCALE.named("seesr_invention_map")
    .remove("decode", "plain")
    .add_nodes(
        after="sampler",
        second=node(
            "SeeSR_TiledSampler",
            "Second seed 第二个随机种",
            **{**UPSCALE.groups[RESTORE]["sampler"].inputs, "seed": 1},
        ),
        decode=UPSCALE.groups[SAVE]["decode"],
        second_decode=node("SeeSR_VAEDecode", latent=("second", "latent"), vae=("checkpoint", "VAE")),
    )
    .add_group(
        "Compare 比较",
        {
            "first_fix": node(
                "SeeSR_ColorFix",
                "Colours of the first 第一个结果的颜色",
                image=("decode", "image"),
                reference=("embed", "hint"),
            ),
            "second_fix": node(
                "SeeSR_ColorFix",
                "Colours of the second 第二个结果的颜色",
                image=("second_decode", "image"),
                reference=("embed", "hint"),
            ),
            "map": node("SeeSR_InventionMap", image=("first_fix", "image"), other=("second_fix", "image")),
            "heat": node("PreviewImage", "Invented 虚构之处", images=("map", "image")),
        },
        before=SAVE,
    )
    .add_nodes(after="save", whole=node("PreviewImage", "Without the map 不用分布图", images=("first_fix", "image")))
    .set_inputs(fix={"mask": ("map", "mask")})
)

FACES = (
    UPSCALE.named("seesr_faces")
    .remove("decode", "fix")
    .add_group(
        "Faces 人脸",
        {
            **{key: UPSCALE.groups[SAVE][key] for key in ("decode", "fix")},
            "face_model": node("FaceRestoreModelLoader"),
            "faces": node(
                "FaceRestoreCFWithModel",
                facerestore_model=("face_model", "FACERESTORE_MODEL"),
                image=("fix", "image"),
                codeformer_fidelity=0.7,
            ),
            "composite": node(
                "ImageCompositeMasked",
                destination=("fix", "image"),
                source=("faces", "IMAGE"),
                x=0,
                y=0,
                resize_source=True,
                mask=("photo", "MASK"),
            ),
        },
        before=SAVE,
    )
    .add_nodes(
        after="save", before_faces=node("PreviewImage", "Without the face pass 不修人脸", images=("fix", "image"))
    )
    .set_inputs(save={"images": ("composite", "IMAGE")})
)

FIRST = {
    "embed": "First LR Embed 第一遍嵌入",
    "apply": "First apply 第一遍应用",
    "sampler": "First sampler 第一遍采样",
    "decode": "First decode 第一遍解码",
    "fix": "Colours of the first pass 第一遍颜色",
}
"""Node -> its title in the first of two passes."""


def in_two_passes(graph: Graph, name: str, upscale: float) -> Graph:
    """Return a workflow that does twice what ``graph`` does once, with the photo's tags and soft prompt both times."""
    held = {key: found for group in graph.groups.values() for key, found in group.items()}
    repeated = ["embed", *graph.groups[RESTORE], "decode", "fix"]

    def first(key: str) -> Node:
        inputs = {
            slot: (f"first_{value[0]}", value[1]) if isinstance(value, tuple) and value[0] in repeated else value
            for slot, value in held[key].inputs.items()
        }
        return replace(held[key], inputs=inputs, title=FIRST.get(key))

    passed = {f"first_{key}": first(key) for key in repeated}
    look = node("PreviewImage", "After the first pass 第一遍之后", images=("first_fix", "image"))
    return (
        graph.named(name)
        .add_nodes(after="embed", first_embed=passed.pop("first_embed"))
        .remove("embed", "plain")
        .add_group("First pass 第一遍", {**passed, "look": look, "embed": held["embed"]}, before=RESTORE)
        .set_inputs(first_embed={"upscale": upscale}, embed={"image": ("first_fix", "image"), "upscale": upscale})
    )


TWO_PASSES = in_two_passes(UPSCALE, "seesr_two_passes", 2.0)

REFERENCE = (
    UPSCALE.named("seesr_reference")
    .add_nodes(
        after="tagger",
        reference=node(
            "SeeSR_Reference",
            dape=("dape", "dape"),
            image=("photo", "IMAGE"),
            folder="input/references",
            tags=("tagger", "tags"),
        ),
    )
    .set_inputs(prompts={"tags": ("reference", "tags")}, apply={"soft_prompt": ("reference", "soft_prompt")})
)

ERA = (
    REFERENCE.named("seesr_era")
    .remove("plain")
    .add_nodes(
        after="checkpoint",
        era=node("SeeSR_Era", model=("checkpoint", "MODEL"), clip=("checkpoint", "CLIP")),
    )
    .set_inputs(
        tagger={"exclude": ("era", "exclude"), "pin": ("era", "pin")},
        reference={"folder": ("era", "references"), "exclude": ("era", "exclude")},
        prompts={
            "clip": ("era", "clip"),
            "user_prompt": ("era", "user_prompt"),
            "negative_prompt": ("era", "negative_prompt"),
        },
        apply={"model": ("era", "model")},
    )
)

TRAIN_ERA_LORA = Graph(
    "train_era_lora",
    {
        LOAD: {
            "checkpoint": UPSCALE.groups[LOAD]["checkpoint"],
            "dape": UPSCALE.groups[LOAD]["dape"],
            "photos": node("LoadImageDataSetFromFolder", "Photos of the era 年代照片", folder="era_photos"),
        },
        "Describe 描述": {
            "scaled": node("ResizeImagesByShorterEdge", images=("photos", "images"), shorter_edge=512),
            "cut": node("CenterCropImages", images=("scaled", "images"), width=512, height=512),
            "tagger": node("SeeSR_Tagger", dape=("dape", "dape"), image=("cut", "images")),
            "words": node(
                "StringConcatenate",
                "Words of the era 年代用词",
                string_a="1960s color slide",
                string_b=("tagger", "tags"),
                delimiter=", ",
            ),
        },
        "Train 训练": {
            "examples": node(
                "MakeTrainingDataset",
                images=("cut", "images"),
                vae=("checkpoint", "VAE"),
                clip=("checkpoint", "CLIP"),
                texts=("words", "STRING"),
            ),
            "train": node(
                "TrainLoraNode",
                model=("checkpoint", "MODEL"),
                latents=("examples", "latents"),
                positive=("examples", "conditioning"),
                steps=1000,
                learning_rate=0.0001,
            ),
        },
        SAVE: {
            "save": node("SaveLoRA", lora=("train", "lora"), prefix="loras/era", steps=("train", "steps")),
            "loss": node("LossGraphNode", "Loss 损失", loss=("train", "loss_map")),
        },
    },
)

CHAINS = (
    *(LORA, UPSCALE_MODEL_FIRST, DETAIL_INPAINT, OWN_CAPTION, EXTRA_CONTROLNET, REGIONAL_PROMPTS, INVENTION_MAP),
    *(FACES, TWO_PASSES, REFERENCE, ERA, TRAIN_ERA_LORA),
)
