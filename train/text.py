"""The text encoder of a base model, for training: texts in, embeddings out."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..seesr_modules.config import HEAD_WIDTH, NEGATIVE_QUALITY, POSITIVE_QUALITY, TEXT_TOKENS
from ..seesr_modules.errors import SeeSRError

PAD = 0
"""Token that pads a text, as in Stable Diffusion 2."""


def load_tokenizer() -> CLIPTokenizer:
    """Return CLIP's tokenizer, which ships with ComfyUI.

    Raises:
        SeeSRError: ComfyUI is not found.
    """
    comfy = importlib.util.find_spec("comfy")
    if comfy is None or not comfy.submodule_search_locations:
        raise SeeSRError("ComfyUI is not on the path: start training with `python run.py train`.")
    return CLIPTokenizer.from_pretrained(Path(comfy.submodule_search_locations[0]) / "sd1_tokenizer")


class TextEncoder(nn.Module):
    """Tokenizer and CLIP text model; texts are cut at 77 tokens."""

    def __init__(self, model: CLIPTextModel, known: Tensor | None = None) -> None:
        """Keep the model.

        Args:
            model: Its last hidden state conditions the UNet.
            known: [n] int64, ascending: the tokens with embeddings of their own, in rows 1 to n. All others share
                row 0. None if the model has CLIP's whole vocabulary.
        """
        super().__init__()
        self.model = model
        self.tokenizer = load_tokenizer()
        self.known: Tensor | None
        self.register_buffer("known", known, persistent=False)

    @classmethod
    def small(cls, words: Iterable[str], width: int, layers: int) -> TextEncoder:
        """Build a small encoder with random weights that knows the given words and the quality prompts."""
        own = load_tokenizer()
        texts = [*words, POSITIVE_QUALITY, NEGATIVE_QUALITY]
        ids = {PAD, *(token for text in texts for token in own(f"{text}, and").input_ids)}
        known = torch.tensor(sorted(ids))
        config = CLIPTextConfig(
            vocab_size=len(known) + 1,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // HEAD_WIDTH,
            hidden_act="gelu",
            eos_token_id=len(known),
        )
        return cls(CLIPTextModel(config), known)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Encode texts to embeddings [B,77,width]."""
        # Padded here, because CLIP's own tokenizer pads with its end token, and Stable Diffusion 2 with 0.
        rows = self.tokenizer(list(texts), truncation=True, max_length=TEXT_TOKENS).input_ids
        tokens = torch.tensor([[*row, *[PAD] * (TEXT_TOKENS - len(row))] for row in rows])
        tokens = tokens.to(self.model.device)
        if self.known is not None:
            place = torch.searchsorted(self.known, tokens).clamp(max=len(self.known) - 1)
            tokens = torch.where(self.known[place] == tokens, place + 1, 0)
        return self.model(tokens).last_hidden_state
