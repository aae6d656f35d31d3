"""The list of all commands: name, module and summary."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command: its `module`, its `help` line in the list, and `fast_help`, whether the module itself prints
    its help and reports invalid options without importing torch; the help of the others is stored (see
    `help_texts`)."""

    module: str
    help: str
    fast_help: bool = False


GROUPS: dict[str, dict[str, Command]] = {
    "Using a model": {
        "synthesize": Command("lightning_modules.synthesize", "generate new views of people from photos"),
        "app": Command("app.serve", "open a page that makes views of photos, in this machine's browser"),
        "export-3d": Command("lightning_modules.export_3d", "write scenes for other tools, meshes, splats"),
        "demo": Command("lightning_modules.demo", "show a model on unseen people: pictures and a table"),
    },
    "Training": {
        "fit": Command("lightning_modules.fit", "train a stage, the noise prior or the small backbone", True),
        "memory": Command("lightning_modules.memory", "compute the GPU memory of training or sampling"),
        "assemble": Command("lightning_modules.assemble", "combine trained parts into a model folder"),
        "fit-preview": Command("lightning_modules.fit_preview", "fit a model's small decoder for previews"),
        "dashboard": Command("callbacks.dashboard", "draw a run's curves and pictures as one image"),
    },
    "Data": {
        "build": Command("shards.build", "capture or read portraits and pack them into shards", True),
        "inspect": Command("shards.inspect", "count, verify and draw the frames of shards"),
        "cache-latents": Command("shards.cache_latents", "add the VAE's latents to shards"),
        "align": Command("portraits.align", "crop photos as EG3D does, and estimate their cameras"),
    },
    "Evaluation": {
        "evaluate": Command("lightning_modules.evaluate", "score a model or any system's images"),
        "unpack": Command("lightning_modules.evaluation.unpack", "convert another system's results"),
        "ablations": Command("lightning_modules.ablations", "measure what each part of the paper adds"),
        "metric-weights": Command("metrics.fetch", "download and verify the metrics' weights"),
    },
    "Other networks": {
        "import-released": Command("lightning_modules.import_released", "convert the authors' checkpoint"),
        "export-released": Command("lightning_modules.export_released", "convert a model for their code"),
        "import-gan": Command("generators.import_gan", "convert a published EG3D or PanoHead network"),
        "import-baseline": Command(
            "baselines.import_baseline", "convert Zero-1-to-3, TriPlaneNet or GOAE", True
        ),
        "invert": Command("generators.invert", "invert portraits into EG3D or PanoHead"),
    },
}

COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
