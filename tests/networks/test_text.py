"""Prompts: which embeddings they get, and where they cannot have any."""

import sys

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from core.errors import InputError
from lightning_modules.networks.pretrained import encode_empty_prompt
from lightning_modules.networks.text import (
    check_prompt,
    copy_text_encoder,
    embed_prompt,
    find_text_encoder,
)
from tests.networks.toy import PROMPT_CHANNELS, toy_text_encoder

START, END = 52, 53  # after 26 letters inside words and 26 at their ends


@pytest.fixture
def folder(tmp_path):
    toy_text_encoder(tmp_path)
    return tmp_path


def test_prompt_is_embedded_as_by_clip(folder):
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    tokens = torch.tensor([[START, 0, 27, 28, END, END, END]])  # a, b at a word's end, c as a word
    with torch.no_grad():
        expected = encoder(tokens).last_hidden_state
    assert torch.equal(embed_prompt(folder, "AB c"), expected)
    assert expected.shape == (1, 7, PROMPT_CHANNELS)


def test_empty_prompt_matches_the_stored_embedding(folder):
    assert torch.equal(embed_prompt(folder, ""), encode_empty_prompt(folder))


def test_prompt_of_too_many_tokens_is_cut_as_in_diffusers(folder, caplog):
    check_prompt(folder, "abcde")
    assert not caplog.text
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    long = "a b c d e f g h"
    tokens = tokenizer(long, truncation=True, max_length=7, return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(embed_prompt(folder, long), encoder(tokens).last_hidden_state)
    check_prompt(folder, long)
    assert "longer than the text encoder reads; left out: 'f g h'" in caplog.text


def test_missing_requirements_of_prompts_are_named(folder, tmp_path, monkeypatch):
    assert find_text_encoder(folder) == folder
    assert find_text_encoder(tmp_path / "elsewhere") is None
    check_prompt(None, "")
    with pytest.raises(InputError, match="prompt 'a': checkpoints/mini has no tokenizer/ and text_encoder/"):
        check_prompt(None, "a", "checkpoints/mini")
    (folder / "tokenizer" / "vocab.json").write_text("{")
    with pytest.raises(InputError, match=r"vocab\.json cannot be read as JSON"):
        check_prompt(folder, "a")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match="needs transformers"):
        check_prompt(folder, "a")


def test_copied_text_encoder_embeds_equally_with_one_set_of_weights(folder, tmp_path):
    weights = folder / "text_encoder" / "model.safetensors"
    weights.with_name("model.fp16.safetensors").write_bytes(weights.read_bytes())
    other = tmp_path / "copy"
    other.mkdir()
    copy_text_encoder(folder, other)
    assert torch.equal(embed_prompt(other, "a"), embed_prompt(folder, "a"))
    assert sorted(path.name for path in (other / "text_encoder").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    copy_text_encoder(tmp_path / "nowhere", other)
