"""Methods of diffusers' Stable Diffusion pipelines that this one does not have, and what to do instead."""

from typing import Any, NoReturn

from core.errors import InputError

FREEU = "it rescales F's skip connections, with which F_cam and V were trained"
QKV = "F reads F_ref's bank by its projections of keys and values"
PHOTOS = "portrait takes one or several photos of the person"
FUSED = "F's weights stay its own; set_adapters gives LoRAs their weights"
TEXT = "embed_prompt(text) returns a prompt's embedding, by the model folder's text_encoder/"
ABSENT = {
    "enable_freeu": FREEU,
    "disable_freeu": FREEU,
    "fuse_qkv_projections": QKV,
    "unfuse_qkv_projections": QKV,
    "load_ip_adapter": PHOTOS,
    "set_ip_adapter_scale": PHOTOS,
    "unload_ip_adapter": PHOTOS,
    "load_textual_inversion": "load_lora_weights adds a style or a person",
    "fuse_lora": FUSED,
    "unfuse_lora": FUSED,
    "encode_prompt": TEXT,
    "text_encoder": TEXT,
    "tokenizer": TEXT,
    "safety_checker": "there is none",
}


class AbsentMethodsMixin:
    """Messages for methods that a `DiffusionPipeline` does not have."""

    def __getattr__(self, name: str) -> Any:
        """Raise AttributeError, with what to do instead where that is known."""
        if name in ABSENT:
            raise AttributeError(f"{name}: not part of this pipeline: {ABSENT[name]}")
        return super().__getattr__(name)  # type: ignore[misc]

    @classmethod
    def from_single_file(cls, path: object, **_options: Any) -> NoReturn:
        """Raise InputError, as a model is a folder."""
        raise InputError(
            f"{path}: a model is a folder, for from_pretrained; import-released and assemble take a single"
            " file of Stable Diffusion 1.5 as the backbone of one"
        )

    def enable_group_offload(self, *_: Any, **_options: Any) -> NoReturn:
        """Raise InputError, as its hooks need calls of whole networks."""
        raise InputError(
            "enable_group_offload: not part of this pipeline: enable_model_cpu_offload() and"
            " enable_sequential_cpu_offload() are"
        )
