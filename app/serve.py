"""`diffportrait3d app --model DIR`: a page in the browser of this machine that makes views of photos.

Everything is checked before a model is loaded. Nothing is sent anywhere: no analytics, no fonts or scripts of
other machines.
"""

import errno
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from jsonargparse import ArgumentParser

from core.devices import find_devices
from core.errors import InputError, one_line
from core.signals import EndAtOnce
from generators.registry import STUDIO, check_renderer, is_renderer
from lightning_modules.sampling.devices import Precision, check_precision
from lightning_modules.sampling.loras import Lora, check_loras, lora_files
from lightning_modules.sampling.model_summary import ModelSummary
from lightning_modules.sampling.settings import Sampling
from portraits.video import check_video

LOCAL = "127.0.0.1"
MAX_PORT = 65535


@dataclass(frozen=True)
class Options:
    """Options of the page.

    Args:
        model: a model folder
        out: the folder for photos and results; the last ten results of each visitor are kept
        host: the address to listen on; other machines reach the page only where this is changed
        port: the port to listen on
        conditions: the renderer of the condition images (studio, synthetic, baked, eg3d:FOLDER,
            panohead:FOLDER)
        loras: a folder of LoRAs for Stable Diffusion 1.5 (.safetensors), which the page offers
        precision: precision of the networks
        device: cpu, cuda, cuda:N, or mps for Apple's GPU; by default the GPUs of NVIDIA's, if any
        devices: number of GPUs, each of which works on one request at a time; all by default
        browser: open the page in the browser
    """

    model: str
    out: str = "runs/app"
    host: str = LOCAL
    port: int = 7860
    conditions: str = STUDIO
    loras: str | None = None
    precision: Precision = "float32"
    device: str | None = None
    devices: int | None = None
    browser: bool = False


def check(options: Options) -> ModelSummary:
    """What the model folder holds. Raises InputError on anything that cannot be served; loads no weights."""
    if find_spec("gradio") is None:
        raise InputError("the page needs one more package: pip install -e '.[app]'")
    check_video()
    if not is_renderer(options.conditions):
        raise InputError(f"--conditions {options.conditions}: the page takes a renderer, not a folder")
    check_renderer(options.conditions)
    check_precision(options.precision, find_devices(options.devices, options.device))
    model = ModelSummary.read(options.model)
    model.check(Sampling(steps=1), views=1)
    check_loras([Lora(file) for file in lora_files(options.loras)], model.folder)
    check_port(options.host, options.port)
    return model


def check_port(host: str, port: int) -> None:
    """Raise InputError where nothing can listen on an address, as where something else does."""
    if not 1 <= port <= MAX_PORT:
        raise InputError(f"--port {port}: give 1 to {MAX_PORT}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        reason = "it is in use" if error.errno == errno.EADDRINUSE else str(error)
        raise InputError(f"--port {port} on {host}: {reason}; choose another --port") from error


def serve(options: Options) -> None:
    """Load the model and serve the page until it is interrupted. Raises InputError before that."""
    model = check(options)
    root = Path(options.out).resolve()
    root.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(root)  # Gradio reads both as it is imported
    with EndAtOnce():
        from app.launch import launch

    launch(options, model, root)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(
        prog="diffportrait3d app", description="A page in the browser that makes views of photos."
    )
    parser.add_class_arguments(Options)
    serve(Options(**parser.parse_args(arguments).as_dict()))


if __name__ == "__main__":
    with one_line():
        main()
