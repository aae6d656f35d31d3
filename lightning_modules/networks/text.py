"""Embeddings of prompts by Stable Diffusion 1.5's text encoder, for F's text attention (3.1).

Shape letters: T prompt tokens, D prompt channels.
"""

import logging
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from core.errors import InputError
from core.tensors import read_json
from lightning_modules.networks.hub import STEMS, choose_weights

TOKENIZER, TEXT_ENCODER = "tokenizer", "text_encoder"
TOKENIZER_FILES = ("vocab.json", "tokenizer.json", "tokenizer_config.json")
FP16 = "fp16"
CLIP_TOKENS = 77
log = logging.getLogger(__name__)


def find_text_encoder(folder: Path) -> Path | None:
    """`folder` if it has a tokenizer/ and a text_encoder/, which prompts need; otherwise None."""
    has_both = (folder / TOKENIZER).is_dir() and (folder / TEXT_ENCODER / "config.json").is_file()
    return folder if has_both else None


def copy_text_encoder(source: Path, folder: Path) -> None:
    """Copy the tokenizer and the text encoder, with one set of weights, from one model folder to another,
    unless they are missing or the other folder has its own."""
    if (source / TOKENIZER).is_dir() and not (folder / TOKENIZER).exists():
        shutil.copytree(source / TOKENIZER, folder / TOKENIZER)
    place = source / TEXT_ENCODER
    if (place / "config.json").is_file() and not (folder / TEXT_ENCODER).exists():
        names = [f"{TEXT_ENCODER}/{path.name}" for path in place.iterdir()]
        chosen = choose_weights(names, TEXT_ENCODER, STEMS[TEXT_ENCODER])
        (folder / TEXT_ENCODER).mkdir()
        for name in (f"{TEXT_ENCODER}/config.json", *chosen):
            shutil.copy(source / name, folder / name)


def check_prompt(folder: Path | None, prompt: str, model: str = "the model") -> None:
    """Raise InputError if a prompt other than "" cannot be embedded: `folder`, from `find_text_encoder`, is
    None, or the package transformers is missing. A prompt that is too long is cut, with a warning that
    quotes what is left out, as diffusers does. Loads no weights."""
    if prompt:
        cut = _tokens(folder, prompt, model)[1]
        if cut:
            log.warning("the prompt is longer than the text encoder reads; left out: %r", cut)


@torch.no_grad()
def embed_prompt(folder: Path | None, prompt: str) -> Tensor:
    """The embedding (1, T, D), float32, of a prompt by the tokenizer and text encoder in a model folder.

    Of a prompt that is too long, its beginning. Raises InputError as `check_prompt`, or if their files are
    damaged.
    """
    tokens, _ = _tokens(folder, prompt, "the model")
    assert folder is not None  # checked with the tokens
    return load_text_encoder(folder / TEXT_ENCODER)(tokens).last_hidden_state


def _tokens(folder: Path | None, prompt: str, model: str) -> tuple[Tensor, str]:
    """The tokens (1, T) of a prompt, padded or cut to CLIP's length, and the text that is cut."""
    if folder is None:
        raise InputError(
            f"prompt {prompt!r}: {model} has no {TOKENIZER}/ and {TEXT_ENCODER}/; copy both from Stable "
            "Diffusion 1.5's folder if F is Stable Diffusion 1.5, as the shipped small model is not"
        )
    try:
        from transformers import CLIPTokenizer
    except ImportError:
        raise InputError(f"prompt {prompt!r}: it needs transformers: pip install transformers") from None
    for name in TOKENIZER_FILES:  # tokenizers raise no class of their own for damaged ones
        if (folder / TOKENIZER / name).exists():
            read_json(folder / TOKENIZER / name)
    length = read_json(folder / TEXT_ENCODER / "config.json").get("max_position_embeddings", CLIP_TOKENS)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / TOKENIZER, local_files_only=True)
        tokens = tokenizer(prompt, padding="max_length", max_length=length, return_tensors="pt").input_ids
        cut = tokenizer.decode(tokens[0, length - 1 : -1])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder / TOKENIZER} cannot be read: {_first_line(error)}") from error
    if tokens.shape[1] <= length:
        return tokens, ""
    return torch.cat([tokens[:, : length - 1], tokens[:, -1:]], 1), cut


def load_text_encoder(place: Path) -> nn.Module:
    """The text encoder in a folder, in float32. Raises InputError if it is damaged, or the package
    transformers is missing."""
    try:
        from transformers import CLIPTextModel
    except ImportError:
        raise InputError(f"{place}: a text encoder needs transformers: pip install transformers") from None
    full = any(f".{FP16}" not in path.name for path in place.glob("*model*.*"))
    try:
        encoder = CLIPTextModel.from_pretrained(place, local_files_only=True, variant=None if full else FP16)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{place} cannot be read: {_first_line(error)}") from error
    return encoder.float().eval()


@torch.no_grad()
def embed_nothing(encoder: nn.Module) -> Tensor:
    """The embedding (1, T, D) of "" by Stable Diffusion 1.5's CLIP text encoder.

    The tokens of "" are the start token and padding by the end token, the last two of CLIP's vocabulary.
    """
    config = encoder.config
    tokens = torch.full((1, config.max_position_embeddings), config.vocab_size - 1)
    tokens[0, 0] = config.vocab_size - 2
    return encoder(tokens).last_hidden_state


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
