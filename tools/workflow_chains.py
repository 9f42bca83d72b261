"""The shipped workflows that chain SeeSR with other things people use, as data; see ``workflow_graphs.py``."""

from __future__ import annotations

from workflow_graphs import LOAD, PREPARE, SAVE, UNDERSTAND, UPSCALE, WEIGHTS, Group, node, variant

LORA = variant(
    UPSCALE,
    "seesr_lora",
    """# SeeSR with a LoRA
As **seesr_upscale**, with a LoRA on the base model: for a style, a face or a material that the base does not know.

## First
1. Get the models (below).
2. Put a LoRA made for Stable Diffusion 2 into models/loras, press **R**, and choose it in **Load LoRA**.
3. Choose your photo in **Load Image**.
4. Name the LoRA's trigger word in **Build Prompts, user_prompt**.
5. Run.

## What to change
- **Load LoRA, strength_model**: how much of it is used.
- LoRAs for SD 1.5 or SDXL do not fit.
"""
    + WEIGHTS,
    {
        LOAD: {
            "checkpoint": UPSCALE.groups[LOAD]["checkpoint"],
            "lora": node(
                "LoraLoader",
                model=("checkpoint", "MODEL"),
                clip=("checkpoint", "CLIP"),
                lora_name="your_sd2_lora.safetensors",
            ),
            **{key: found for key, found in UPSCALE.groups[LOAD].items() if key != "checkpoint"},
        },
    },
    prompts={"clip": ("lora", "CLIP")},
    apply={"model": ("lora", "MODEL")},
)

UPSCALE_MODEL_FIRST = variant(
    UPSCALE,
    "seesr_upscale_model_first",
    """# SeeSR after an upscale model
A model of the Real-ESRGAN kind takes noise, blur and JPEG blocks away first; its result, shrunk back to the photo's \
size, is what SeeSR paints anew. For photos so bad that SeeSR alone paints the damage in, as DiffBIR does it. DAPE \
still looks at the photo itself: it was trained on bad ones.

## First
1. Get the models (below).
2. Put an upscale model such as RealESRGAN_x4plus.pth \
([Real-ESRGAN](https://github.com/xinntao/Real-ESRGAN)) into models/upscale_models, press **R**, and choose it in \
**Load Upscale Model**.
3. Choose your photo in **Load Image**.
4. Run.

## What to change
- **Shrink back, scale_by**: one over the upscale model's factor; 0.25 for x4, 0.5 for x2.
- **LR Embed, upscale**: how much larger the result is.
- A result that looks like plastic: link **Load Image** to **LR Embed, image** again, which is **seesr_upscale**.
"""
    + WEIGHTS,
    {
        LOAD: {
            **UPSCALE.groups[LOAD],
            "upscaler": node("UpscaleModelLoader", model_name="RealESRGAN_x4plus.pth"),
        },
    },
    before=(
        PREPARE,
        "Clean",
        {
            "enlarged": node(
                "ImageUpscaleWithModel", upscale_model=("upscaler", "UPSCALE_MODEL"), image=("photo", "IMAGE")
            ),
            "cleaned": node(
                "ImageScaleBy", "Shrink back", image=("enlarged", "IMAGE"), upscale_method="area", scale_by=0.25
            ),
        },
    ),
    embed={"image": ("cleaned", "IMAGE")},
)

DETAIL: Group = {
    "detail_prompts": node(
        "SeeSR_BuildPrompts",
        "Build Prompts for the detail",
        clip=("checkpoint", "CLIP"),
        tags="",
        user_prompt="close-up of a face, detailed eyes, natural skin",
    ),
    "detail_apply": node(
        "SeeSR_ControlNetApply",
        "SeeSR ControlNet Apply for the detail",
        model=("checkpoint", "MODEL"),
        seesr=("seesr", "seesr"),
        positive=("detail_prompts", "positive"),
        negative=("detail_prompts", "negative"),
        hint=("embed", "hint"),
        soft_prompt=("tagger", "soft_prompt"),
        strength=0.6,
    ),
    "masked": node("SetLatentNoiseMask", samples=("sampler", "latent"), mask=("photo", "MASK")),
    "detail": node(
        "SeeSR_TiledSampler",
        "Tiled Sampler for the detail",
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

DETAIL_INPAINT = variant(
    UPSCALE,
    "seesr_detail_inpaint",
    """# SeeSR with a second look at a detail
As **seesr_upscale**, then a second pass over what you painted a mask on: a face, a hand, lettering. It begins at 40 \
percent of the noise, with words of its own and less hold of the photo; outside the mask nothing changes.

## First
1. Get the models (below).
2. Choose your photo in **Load Image**. Right-click it, **Open in MaskEditor**, paint over the detail, save.
3. Say what is there in **Build Prompts for the detail, user_prompt**.
4. Run. Without a mask the second pass changes nothing.

## What to change
- **Tiled Sampler for the detail, denoise**: 0.3 keeps more, 0.6 invents more.
- **SeeSR ControlNet Apply for the detail, strength**: 1 keeps to the photo, 0.3 to your words.
- **Tiled Sampler for the detail, seed**: until you like the detail; the first pass is not computed again.
"""
    + WEIGHTS,
    before=(SAVE, "Detail", DETAIL),
    fix={"image": ("composite", "IMAGE")},
)

OWN_CAPTION = variant(
    UPSCALE,
    "seesr_own_caption",
    """# SeeSR with a caption of your own
As **seesr_upscale**, with a sentence in front of DAPE's tags: from you, or from any node that writes text, such as a \
captioner.

## First
1. Get the models (below).
2. Choose your photo in **Load Image**.
3. Say what is in it in **Caption**. Or delete that node and link your captioner's text to **Concatenate, string_a**.
4. Run.

## What to change
- To have the caption alone, link it to **Build Prompts, tags** in place of **Concatenate**.
- A captioner that writes for SDXL or Flux writes too much: SD2 does best with a sentence of plain words.
- **Build Prompts, literal** takes brackets in a caption as text. Turn it off to write weights, such as (beard:1.2).
- Let the captioner see the photo itself, as DAPE does, not the upscaled picture.
"""
    + WEIGHTS,
    {
        UNDERSTAND: {
            "tagger": UPSCALE.groups[UNDERSTAND]["tagger"],
            "caption": node(
                "PrimitiveStringMultiline", "Caption", value="a photo of an elderly man in a woollen coat on a street"
            ),
            "joined": node(
                "StringConcatenate", string_a=("caption", "STRING"), string_b=("tagger", "tags"), delimiter=", "
            ),
            "prompts": UPSCALE.groups[UNDERSTAND]["prompts"],
        },
    },
    prompts={"tags": ("joined", "STRING"), "literal": True},
)

EXTRA_CONTROLNET = variant(
    UPSCALE,
    "seesr_extra_controlnet",
    """# SeeSR with another ControlNet
As **seesr_upscale**, with a Canny ControlNet in front of SeeSR's own: it holds the edges of buildings, lettering and \
drawings in place. Any ControlNet for Stable Diffusion 2 fits here, and several may be chained.

## First
1. Get the models (below).
2. Put a ControlNet made for Stable Diffusion 2.1, such as control_v11p_sd21_canny.safetensors \
([thibaud/controlnet-sd21](https://huggingface.co/thibaud/controlnet-sd21)), into models/controlnet, press **R**, and \
choose it in **Load ControlNet Model**.
3. Choose your photo in **Load Image**.
4. Run.

## What to change
- **Canny, low_threshold** and **high_threshold**: lower for a photo without contrast. Look at **Edges**: noise that \
shows there as edges is painted in.
- **Apply ControlNet, strength** and **end_percent**: less where the result gets hard outlines.
- ControlNets for SD 1.5 or SDXL do not fit.
"""
    + WEIGHTS,
    {
        LOAD: {
            **UPSCALE.groups[LOAD],
            "other": node("ControlNetLoader", control_net_name="control_v11p_sd21_canny.safetensors"),
        },
        PREPARE: {
            "embed": UPSCALE.groups[PREPARE]["embed"],
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
            "apply": UPSCALE.groups[PREPARE]["apply"],
        },
        SAVE: {**UPSCALE.groups[SAVE], "look": node("PreviewImage", "Edges", images=("edges", "IMAGE"))},
    },
    apply={"positive": ("held", "positive"), "negative": ("held", "negative")},
)

REGIONAL_PROMPTS = variant(
    UPSCALE,
    "seesr_regional_prompts",
    """# SeeSR with regional prompts
As **seesr_upscale**, with words that count only in a part of the photo: one text where you painted a mask, another \
where you did not, and the tags everywhere.

## First
1. Get the models (below).
2. Choose your photo in **Load Image**. Right-click it, **Open in MaskEditor**, paint over the part, save.
3. Say in **Text inside the mask** and **Text outside the mask** what is there.
4. Run.

## What to change
- **Conditioning (Set Mask), strength**: how much the words of a part count beside the tags.
- For more parts, repeat the three nodes of a part; **Load Image (as Mask)** brings in masks of other files.
- Keep to masks and **set_cond_area** at default: with areas and bounds ComfyUI squeezes the whole photo into the \
part before a ControlNet sees it.
"""
    + WEIGHTS,
    before=(
        PREPARE,
        "Regions",
        {
            "inside_text": node(
                "CLIPTextEncode",
                "Text inside the mask",
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
                "Text outside the mask",
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
    ),
    apply={"positive": ("everything", "CONDITIONING")},
)

CHAINS = (LORA, UPSCALE_MODEL_FIRST, DETAIL_INPAINT, OWN_CAPTION, EXTRA_CONTROLNET, REGIONAL_PROMPTS)
