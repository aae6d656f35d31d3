"""The controls that the page shows for a model, and the values that a preset sets."""

from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest

from app.layout import Controls
from app.page import fill_preset
from app.requests import PRESET, START, preset_values
from lightning_modules.sampling.model_summary import ModelSummary


@pytest.fixture(scope="module")
def model():
    return ModelSummary.read("checkpoints/mini")


def controls(model, loras=()):
    with gr.Blocks():
        return Controls(lambda _: "", model, loras)


def test_prompt_and_loras_are_shown_for_models_that_support_them(model, tmp_path):
    plain = controls(model)
    assert not plain.settings["prompt"].visible
    assert plain.settings["lora"].choices == []
    assert "lcm" not in dict(plain.preset.choices)
    both = controls(replace(model, text_folder=tmp_path), [Path("/loras/lcm.safetensors")])
    assert both.settings["prompt"].visible
    assert both.settings["lora"].choices == [("lcm", "/loras/lcm.safetensors")]
    assert "lcm" in dict(both.preset.choices)


def test_page_starts_with_a_preset_that_others_replace(model):
    shown = controls(model).settings
    assert {name: shown[name].value for name in PRESET} == preset_values(START)
    assert fill_preset("released") == list(preset_values("released").values())
    assert preset_values("released")["solver"] == "ddim"
