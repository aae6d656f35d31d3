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


def one(positions: int = 4) -> ViewTransformer:
    torch.manual_seed(0)
    return shake(
        ViewTransformer(16, heads=4, groups=4, positions=positions, layers=1, attentions=2, ff_mult=4)
    ).eval()


def test_adds_nothing_before_training():
    unet = sd15_unet()
    latents, timesteps = noise(6, 4, 8, 8), torch.full((6,), 300)
    plain = Denoiser(unet, prompt())(latents, timesteps)
    for middle in ("always", "unconditional", "never"):
        cross_view = CrossView.from_unet(unet, middle=middle)
        assert torch.equal(
            Denoiser(unet, prompt(), cross_view=cross_view)(latents, timesteps, views=3), plain
        )


def test_has_the_released_places():
    cross_view = CrossView.from_unet(sd15_unet(), middle="unconditional")
    assert len(cross_view.down) == 11
    assert [len(row) for row in cross_view.up] == [1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 1]
    assert CrossView.from_unet(sd15_unet()).mid is None


def test_attends_across_views_at_each_pixel():
    """Two pixels of one view change places, unseen by its normalisation: there the other views change."""
    transformer, before = one(), noise(6, 16, 4, 4)
    after = before.clone()
    after[0, :, 1, 2], after[0, :, 3, 0] = before[0, :, 3, 0], before[0, :, 1, 2]
    moved = (transformer(after, 3) - transformer(before, 3)).abs().amax(dim=1) > 1e-4
    assert moved[:3, 1, 2].all()
    assert moved[:3, 3, 0].all()
    assert moved.sum() == 6


def test_views_of_portraits_are_consecutive():
    transformer, hidden = one(), noise(6, 16, 4, 4)
    apart = torch.cat([transformer(hidden[:3], 3), transformer(hidden[3:], 3)])
    torch.testing.assert_close(transformer(hidden, 3), apart, **CLOSE)


def test_order_matters_with_places_and_not_without():
    hidden, order = noise(4, 16, 4, 4), [2, 0, 3, 1]
    without = one(positions=0)
    torch.testing.assert_close(without(hidden[order], 4), without(hidden, 4)[order], **CLOSE)
    placed = one(positions=4)
    assert (placed(hidden[order], 4) - placed(hidden, 4)[order]).abs().max() > 1e-3


def test_places_are_added_to_queries_keys_and_values():
    """Against attention written out, one head and all."""
    transformer = one(positions=3)
    layer = transformer.blocks[0].attentions[0]
    tokens = noise(5, 3, 16)
    normed = layer.norm(tokens) + sinusoids(3, 16)
    q, k, v = (getattr(layer.attention, name)(normed) for name in ("to_q", "to_k", "to_v"))
    split = [x.reshape(5, 3, 4, 4).transpose(1, 2) for x in (q, k, v)]
    weights = (split[0] @ split[1].transpose(2, 3) / 2).softmax(dim=-1)
    mixed = (weights @ split[2]).transpose(1, 2).reshape(5, 3, 16)
    torch.testing.assert_close(layer(tokens), tokens + layer.attention.to_out[0](mixed), **CLOSE)


@pytest.mark.parametrize("views", [1, 2, 5, 32])
def test_any_number_of_views(views):
    unet = toy_unet()
    denoiser = Denoiser(unet, prompt(), cross_view=shake(CrossView.from_unet(unet, heads=4)))
    out = denoiser(noise(views, 4, 8, 8), torch.full((views,), 5), views=views)
    assert out.isfinite().all()


def test_more_views_than_places_is_one_line():
    unet = toy_unet()
    many = noise(5, 4, 8, 8), torch.full((5,), 5)
    with pytest.raises(InputError, match="5 views at once, but V has positional encodings for 4"):
        Denoiser(unet, prompt(), cross_view=CrossView.from_unet(unet, positions=4, heads=4))(*many, views=5)
    Denoiser(unet, prompt(), cross_view=CrossView.from_unet(unet, positions=0, heads=4))(*many, views=5)


def test_middle_runs_where_its_setting_says():
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


def test_many_pixels_are_attended_in_pieces(monkeypatch):
    transformer, hidden = one(), noise(4, 16, 4, 4)
    whole = transformer(hidden, 2)
    monkeypatch.setattr(module, "MAX_ITEMS", 7)
    torch.testing.assert_close(transformer(hidden, 2), whole, **CLOSE)


def test_gradients_reach_v_alone_and_checkpointing_changes_none():
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


def test_round_trips_through_its_folder(tmp_path):
    cross_view = shake(CrossView.from_unet(toy_unet(), middle="always", positions=5, heads=4))
    save_model(cross_view, tmp_path)
    hidden = noise(4, 16, 4, 4)
    for loaded in (load_model(CrossView, tmp_path), CrossView.from_pretrained(tmp_path)):
        assert loaded.config.positions == 5
        assert torch.equal(loaded.down[0](hidden, 2), cross_view.down[0](hidden, 2))


def test_an_unknown_middle_is_one_line():
    with pytest.raises(InputError, match="middle='sometimes'"):
        CrossView.from_unet(toy_unet(), middle="sometimes")


@pytest.mark.parametrize(
    ("setting", "value", "said"),
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
def test_a_config_of_another_type_or_out_of_range_is_one_line(setting, value, said, tmp_path):
    save_model(CrossView.from_unet(toy_unet(), heads=4), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, setting: value}))
    with pytest.raises(InputError, match=said):
        load_model(CrossView, tmp_path)
