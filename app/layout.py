"""The page's controls and their layout."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from app import markup
from app.photos import MAX_PHOTOS, PEOPLE
from app.requests import MODES, PATH, START, offered_presets, preset_values
from lightning_modules.sampling.model_summary import ModelSummary
from lightning_modules.sampling.plan import AWARE, RANDOM
from lightning_modules.sampling.requests import Request
from lightning_modules.sampling.settings import PREVIEW, VAE, Solver, Spacing
from lightning_modules.sampling.trajectories import TRAJECTORIES
from portraits.alignment.photos import SUFFIXES

HERE = Path(__file__).parent
TITLE = "DiffPortrait3D"
HEAD = (
    '<div class="dp-head" tabindex="0" role="slider" aria-label="camera">'
    '<img alt="" hidden><output></output></div>'
)
DRAG = "Drag the head, then add the view."
Frame = Callable[[list[float]], str]
"""Maps [yaw, pitch, identity] to an image of the dragged head, as a data URI; angles in degrees."""


def styles() -> str:
    """The page's style sheet."""
    return (HERE / "page.css").read_text(encoding="utf-8")


def script(name: str) -> str:
    """A script of the page."""
    return (HERE / name).read_text(encoding="utf-8")


def optional(label: str, info: str) -> gr.Textbox:
    """A text field for a number that may be left empty, for which Gradio's number field would show 0."""
    return gr.Textbox("", label=label, info=info, max_lines=1, min_width=80, elem_id=label)


class Controls:
    """All controls and their layout; create it within `gr.Blocks`."""

    def __init__(self, frame: Frame, model: ModelSummary, loras: Sequence[Path] = ()) -> None:
        self.settings: dict[str, Any] = {}
        self.model, self.loras = model, loras
        gr.HTML(
            f"<h1>{TITLE}</h1><p>One portrait in, the same person from new cameras out.</p>",
            elem_classes="dp-title",
        )
        with gr.Row():
            with gr.Column(scale=5, min_width=340):
                self._photo_controls()
                self._camera_controls(frame)
                self._setting_controls()
            with gr.Column(scale=6, min_width=340):
                self._result_controls()

    def _photo_controls(self) -> None:
        gr.Markdown("### 1 · Portrait")
        self.photos = gr.State([])
        self.upload = gr.File(
            label=f"Drop a photo, or several of one person ({MAX_PHOTOS} at most)",
            file_count="multiple",
            file_types=list(SUFFIXES),
            height=150,
            elem_id="photos",
        )
        self.person = gr.Dropdown(
            [(f"Person {number}", number) for number in PEOPLE],
            value=None,
            label="or a built-in person",
            elem_id="person",
        )
        self.seen = gr.HTML(elem_id="seen")
        self.face = gr.Radio([], label="Whose face?", visible=False, elem_id="face")

    def _camera_controls(self, frame: Frame) -> None:
        gr.Markdown("### 2 · Camera")
        self.mode = gr.Radio(list(MODES), value=PATH, show_label=False, container=False, elem_id="mode")
        with gr.Group(visible=True) as self.path_group:
            self.trajectory = gr.Dropdown(list(TRAJECTORIES), value="orbit", label="trajectory")
            with gr.Row():
                self.views = gr.Number(24, label="views", precision=0, minimum=1, elem_id="views")
                self.yaw = optional("yaw", "degrees; empty: its own")
                self.pitch = optional("pitch", "degrees; empty: its own")
        with gr.Group(visible=False) as self.drag_group:
            self.widget = gr.HTML(
                html_template=HEAD,
                js_on_load=script("camera.js"),
                server_functions=[frame],
                identity=0,
                elem_id="camera",
            )
            self.dragged = gr.Textbox("", visible="hidden")
            self.chosen = gr.State([])
            self.chosen_list = gr.HTML(markup.message(DRAG), elem_id="chosen")
            with gr.Row():
                self.add = gr.Button("Add this view", size="sm", elem_id="add")
                self.clear = gr.Button("Remove all", size="sm")
        with gr.Group(visible=False) as self.follow_group:
            self.follow = gr.State([])
            self.follow_upload = gr.File(
                label="A photo, or several, whose pose is followed",
                file_count="multiple",
                file_types=list(SUFFIXES),
                height=150,
            )
            self.followed = gr.HTML()

    def _setting_controls(self) -> None:
        gr.Markdown("### 3 · Views")
        self._prompt_controls()
        chosen = preset_values(START)
        presets = offered_presets(self.loras)
        self.preset = gr.Radio(presets, value=START, label="preset", elem_id="preset")
        default = Request(model="", out="")
        with gr.Row():
            self.settings["steps"] = gr.Number(
                chosen["steps"], label="steps", precision=0, min_width=80, elem_id="steps"
            )
            self.settings["guidance"] = gr.Number(
                chosen["guidance"], label="guidance", step=0.1, min_width=80
            )
            self.settings["strength"] = gr.Number(default.strength, label="strength", step=0.05, min_width=80)
            self.settings["seed"] = gr.Number(default.seed, label="seed", precision=0, min_width=80)
        with gr.Accordion("More settings", open=False):
            with gr.Row():
                noise = [("where possible, 3d-aware", None), AWARE, RANDOM]
                self.settings["noise"] = gr.Dropdown(noise, value=None, label="noise")
                self.settings["eta"] = gr.Slider(0, 1, chosen["eta"], step=0.05, label="eta")
                self.settings["identity"] = optional("identity", "of the dragged head; empty: the seed")
            with gr.Row():
                self.settings["window"] = gr.Number(default.window, label="window", precision=0)
                self.settings["overlap"] = optional("overlap", "empty: half a window")
                self.settings["fps"] = gr.Number(default.fps, label="fps")
            self._speed_controls(chosen)
        with gr.Row():
            self.make = gr.Button("Make views", variant="primary", elem_id="make")
            self.cancel = gr.Button("Cancel", variant="stop", elem_id="cancel")

    def _prompt_controls(self) -> None:
        """Prompt and LoRAs; shown if the model has a text encoder, or the page offers LoRAs."""
        self.settings["prompt"] = gr.Textbox(
            "", label="prompt", info="for F's text attention; empty as in the paper", max_lines=1,
            visible=self.model.text_folder is not None, elem_id="prompt",
        )  # fmt: skip
        with gr.Row(visible=bool(self.loras)):
            choices = [(path.stem, str(path)) for path in self.loras]
            self.settings["lora"] = gr.Dropdown(
                choices, value=[], multiselect=True, label="lora", elem_id="lora"
            )
            self.lora_weight = gr.Number(1.0, label="weight of each", step=0.05, min_width=80)

    def _speed_controls(self, chosen: Mapping[str, Any]) -> None:
        """Settings that make sampling faster."""
        with gr.Row():
            solvers = [("the model's", None), *get_args(Solver)]
            self.settings["solver"] = gr.Dropdown(solvers, value=chosen["solver"], label="solver")
            self.settings["spacing"] = gr.Dropdown(
                list(get_args(Spacing)), value=chosen["spacing"], label="spacing"
            )
            decoders = [VAE, PREVIEW] if self.model.has_preview_decoder else [VAE]
            self.settings["decoder"] = gr.Dropdown(decoders, value=chosen["decoder"], label="decoder")
        with gr.Row():
            for name in ("guidance_low", "guidance_high", "deep_every"):
                self.settings[name] = gr.Number(chosen[name], label=name, precision=0, min_width=80)
            self.settings["one_batch"] = gr.Checkbox(chosen["one_batch"], label="one_batch", min_width=80)

    def _result_controls(self) -> None:
        self.status = gr.HTML(
            markup.message("Choose a portrait and cameras, then make views."),
            elem_id="status",
            min_height=60,
        )
        self.shown = gr.State("")
        self.result = gr.HTML(js_on_load=script("page.js"), elem_id="result")
        self.command = gr.Textbox(
            label="The same on the command line",
            interactive=False,
            visible=False,
            lines=2,
            buttons=["copy"],
            elem_id="command",
        )
        with gr.Accordion("3D files", visible=False) as self.assets:
            self.with_splats = gr.Checkbox(
                label="with 3D Gaussians (minutes; four views or more)", elem_id="with-splats"
            )
            self.make_3d = gr.Button("Make files for other tools, and the head's mesh", elem_id="make3d")
            self.assets_status = gr.HTML()
            self.mesh = gr.Model3D(label="mesh", visible=False, interactive=False, height=320, elem_id="mesh")
            self.splats = gr.Model3D(
                label="3D Gaussians", visible=False, interactive=False, height=320, elem_id="splats"
            )
        gr.Markdown("### Last results")
        self.history = gr.HTML(js_on_load=script("page.js"), elem_id="history")
        self.cameras = {
            "mode": self.mode,
            "trajectory": self.trajectory,
            "views": self.views,
            "yaw": self.yaw,
            "pitch": self.pitch,
            "dragged": self.chosen,
            "photos": self.follow,
        }
