import json

import pytest
import torch

from core.errors import InputError
from core.model_folders import load_model, save_model
from lightning_modules.networks import cross_view as module
from lightning_modules.networks.cross_view import CrossView, ViewTransformer, sinusoids
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.reference import AppearanceReference
from tests.networks.toy import noise, prompt, sd15_unet, shake, toy_unet

CLOSE = {"rtol": 1e-4, "atol": 2e-6}


def toy_transformer(positions: int = 4) -> ViewTransformer:
    torch.manual_seed(0)
    return shake(
        ViewTransformer(16, heads=4, groups=4, positions=positions, layers=1, attentions=2, ff_mult=4)
    ).eval()


def test_untrained_part_adds_nothing():
    unet = sd15_unet()
    latents, timesteps = noise(6, 4, 8, 8), torch.full((6,), 300)
    plain = Denoiser(unet, prompt())(latents, timesteps)
    for middle in ("always", "unconditional", "never"):
        cross_view = CrossView.from_unet(unet, middle=middle)
        assert torch.equal(
            Denoiser(unet, prompt(), cross_view=cross_view)(latents, timesteps, views=3), plain
        )


def test_layers_match_the_release():
    cross_view = CrossView.from_unet(sd15_unet(), middle="unconditional")
    assert len(cross_view.down) == 11
    assert [len(row) for row in cross_view.up] == [1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 1]
    assert CrossView.from_unet(sd15_unet()).mid is None


def test_attention_is_across_views_at_each_pixel():
    """Swapping two pixels of one view keeps its normalisation and changes all views at those pixels only."""
    transformer, before = toy_transformer(), noise(6, 16, 4, 4)
    after = before.clone()
    after[0, :, 1, 2], after[0, :, 3, 0] = before[0, :, 3, 0], before[0, :, 1, 2]
    moved = (transformer(after, 3) - transformer(before, 3)).abs().amax(dim=1) > 1e-4
    assert moved[:3, 1, 2].all()
    assert moved[:3, 3, 0].all()
    assert moved.sum() == 6


def test_portraits_do_not_attend_to_each_other():
    transformer, hidden = toy_transformer(), noise(6, 16, 4, 4)
    apart = torch.cat([transformer(hidden[:3], 3), transformer(hidden[3:], 3)])
    torch.testing.assert_close(transformer(hidden, 3), apart, **CLOSE)


def test_positional_encodings_make_order_matter():
    hidden, order = noise(4, 16, 4, 4), [2, 0, 3, 1]
    without = toy_transformer(positions=0)
    torch.testing.assert_close(without(hidden[order], 4), without(hidden, 4)[order], **CLOSE)
    placed = toy_transformer(positions=4)
    assert (placed(hidden[order], 4) - placed(hidden, 4)[order]).abs().max() > 1e-3


def test_attention_matches_a_plain_implementation():
    """Queries, keys and values all get the positional encoding."""
    transformer = toy_transformer(positions=3)
    layer = transformer.blocks[0].attentions[0]
    tokens = noise(5, 3, 16)
    normed = layer.norm(tokens) + sinusoids(3, 16)
    q, k, v = (getattr(layer.attention, name)(normed) for name in ("to_q", "to_k", "to_v"))
    split = [x.reshape(5, 3, 4, 4).transpose(1, 2) for x in (q, k, v)]
    weights = (split[0] @ split[1].transpose(2, 3) / 2).softmax(dim=-1)
    mixed = (weights @ split[2]).transpose(1, 2).reshape(5, 3, 16)
    torch.testing.assert_close(layer(tokens), tokens + layer.attention.to_out[0](mixed), **CLOSE)


@pytest.mark.parametrize("views", [2, 5, 32])
@torch.no_grad()
def test_default_cross_view_takes_any_number_of_views(views):
    unet = toy_unet()
    denoiser = Denoiser(unet, prompt(), cross_view=shake(CrossView.from_unet(unet, heads=4)))
    latents, timesteps = noise(2 * views, 4, 8, 8), torch.full((2 * views,), 5)
    together = denoiser(latents, timesteps, views=views)
    first = denoiser(latents[:views], timesteps[:views], views=views)
    torch.testing.assert_close(together[:views], first, **CLOSE)
    assert not torch.allclose(first[:1], denoiser(latents[:1], timesteps[:1], views=1), atol=1e-3)


def test_more_views_than_positions_is_an_input_error():
    unet = toy_unet()
    many = noise(5, 4, 8, 8), torch.full((5,), 5)
    with pytest.raises(InputError, match="5 views at once, but V has positional encodings for 4"):
        Denoiser(unet, prompt(), cross_view=CrossView.from_unet(unet, positions=4, heads=4))(*many, views=5)
    Denoiser(unet, prompt(), cross_view=CrossView.from_unet(unet, positions=0, heads=4))(*many, views=5)


def test_middle_layer_runs_as_configured():
    unet = toy_unet()
    reference = AppearanceReference.from_unet(unet)
    bank = reference(noise(1, 1, 4, 8, 8), torch.tensor([5]), prompt())
    for middle, passes in (("always", 2), ("unconditional", 1), ("never", 0)):
        cross_view = shake(CrossView.from_unet(unet, middle=middle, heads=4))
        runs = []
        if cross_view.mid is not None:
            cross_view.mid.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        denoiser = Denoiser(unet, prompt(), cross_view=cross_view)
        arguments = noise(2, 4, 8, 8), torch.tensor([5, 5])
        denoiser(*arguments, views=2)
        assert len(runs) == (passes > 0)
        denoiser(*arguments, bank, views=2)
        assert len(runs) == passes


def test_chunked_attention_matches_whole_attention(monkeypatch):
    transformer, hidden = toy_transformer(), noise(4, 16, 4, 4)
    whole = transformer(hidden, 2)
    monkeypatch.setattr(module, "MAX_ITEMS", 7)
    torch.testing.assert_close(transformer(hidden, 2), whole, **CLOSE)


def test_only_v_gets_gradients_and_checkpointing_keeps_them():
    gradients = []
    for checkpointing in (False, True):
        unet = toy_unet().requires_grad_(False)
        cross_view = shake(CrossView.from_unet(unet, heads=4))
        denoiser = Denoiser(unet, prompt(), cross_view=cross_view, gradient_checkpointing=checkpointing)
        denoiser(noise(4, 4, 8, 8), torch.full((4,), 5), views=2).square().mean().backward()
        assert all(parameter.grad is None for parameter in unet.parameters())
        gradients.append({name: parameter.grad for name, parameter in cross_view.named_parameters()})
    assert all(gradient.abs().max() > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-9)


def test_folder_round_trip(tmp_path):
    cross_view = shake(CrossView.from_unet(toy_unet(), middle="always", positions=5, heads=4))
    save_model(cross_view, tmp_path)
    hidden = noise(4, 16, 4, 4)
    for loaded in (load_model(CrossView, tmp_path), CrossView.from_pretrained(tmp_path)):
        assert loaded.config.positions == 5
        assert torch.equal(loaded.down[0](hidden, 2), cross_view.down[0](hidden, 2))


def test_unknown_middle_is_an_input_error():
    with pytest.raises(InputError, match="middle='sometimes'"):
        CrossView.from_unet(toy_unet(), middle="sometimes")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("heads", 1e308, "heads: Input should be a valid integer"),
        ("heads", 10**400, "no valid config of CrossView"),
        ("heads", 0, "no valid config of CrossView"),
        ("heads", "8", "heads: Input should be a valid integer"),
        ("positions", -1e9, "positions: Input should be a valid integer"),
        ("down_channels", 7, "down_channels: Input should be a valid array"),
        ("middle", None, "middle: Input should be"),
    ],
)
def test_invalid_config_is_an_input_error(setting, value, message, tmp_path):
    save_model(CrossView.from_unet(toy_unet(), heads=4), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, setting: value}))
    with pytest.raises(InputError, match=message):
        load_model(CrossView, tmp_path)
