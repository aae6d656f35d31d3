"""Loading of the model onto its devices, and the page's server. Imports Gradio."""

from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from starlette.middleware import Middleware

from app.camera import LiveCamera
from app.jobs import Workers
from app.layout import styles
from app.page import Page
from app.photos import MAX_BYTES
from app.requests import Fixed
from app.visitors import Guard, Visitors
from core.devices import find_devices
from lightning_modules.sampling.loras import lora_files
from lightning_modules.sampling.model_summary import ModelSummary
from lightning_modules.sampling.synthesis import NetworkOptions, open_pipeline

if TYPE_CHECKING:
    from app.serve import Options


def launch(options: "Options", model: ModelSummary, root: Path) -> None:
    """Serve the page until it is interrupted."""
    networks = NetworkOptions(str(model.folder), options.precision)
    pipelines = [
        open_pipeline(networks, [device]) for device in find_devices(options.devices, options.device)
    ]
    visitors = Visitors(root)
    page = Page(
        Fixed(str(model.folder.resolve()), options.conditions, options.precision, lora_files(options.loras)),
        Workers(pipelines),
        visitors,
        LiveCamera(options.conditions),
        model,
    )
    blocks = page.build()
    blocks.queue(api_open=False, default_concurrency_limit=4)
    print(f"http://{options.host}:{options.port}")
    blocks.launch(
        server_name=options.host,
        server_port=options.port,
        inbrowser=options.browser,
        share=False,
        quiet=True,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        max_file_size=MAX_BYTES,
        theme=gr.themes.Default(),
        css=styles(),
        app_kwargs={"middleware": [Middleware(Guard, visitors=visitors)]},
    )
