import pytest
import torch

from core.errors import InputError
from core.model_folders import load_model, save_model
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.layers import down_layers, mid_layers, self_attentions, up_layers
from lightning_modules.networks.reference import AppearanceReference, ReferenceBank
from tests.networks.toy import noise, prompt, sd15_unet, shake, toy_unet

# Float32: sums in another order differ by about 1e-6 for outputs near 1.
CLOSE = {"rtol": 1e-4, "atol": 2e-6}


@pytest.fixture(params=[toy_unet, sd15_unet], ids=["toy", "sd15"])
def unet(request):
    return request.param()


def test_bare_denoiser_matches_the_diffusers_unet(unet):
    latents, timesteps = noise(3, 4, 8, 8), torch.tensor([1, 500, 999])
    ours = Denoiser(unet, prompt(5))(latents, timesteps)
    theirs = unet(latents, timesteps, prompt(5).expand(3, -1, -1)).sample
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_untrained_f_ref_of_the_same_latents_leaves_f_unchanged(unet):
    latents, timesteps = noise(3, 4, 8, 8), torch.tensor([1, 500, 999])
    denoiser = Denoiser(unet, prompt())
    bank = AppearanceReference.from_unet(unet)(latents.unsqueeze(1), timesteps, prompt())
    torch.testing.assert_close(denoiser(latents, timesteps, bank), denoiser(latents, timesteps), **CLOSE)


def test_output_depends_on_the_reference(unet):
    latents, timesteps = noise(2, 4, 8, 8), torch.tensor([500, 500])
    denoiser, reference = Denoiser(unet, prompt()), AppearanceReference.from_unet(unet)
    outputs = [
        denoiser(latents, timesteps, reference(noise(2, 1, 4, 8, 8, seed=seed), timesteps, prompt()))
        for seed in (1, 2)
    ]
    # well above rounding
    assert (outputs[0] - outputs[1]).abs().mean() > 1e-3 * outputs[0].abs().mean()


def test_bank_has_every_self_attention_of_f(unet):
    bank = AppearanceReference.from_unet(unet)(noise(2, 3, 4, 8, 8), torch.tensor([5, 6]), prompt())
    attentions = self_attentions(down_layers(unet) + mid_layers(unet) + up_layers(unet))
    assert list(bank) == list(attentions)
    assert set(bank) == {name for name, _ in unet.named_modules() if name.endswith("attn1")}
    for name, attention in attentions.items():
        assert bank[name].shape[0] == 2
        assert bank[name].shape[1] % 3 == 0
        assert bank[name].shape[2] == attention.query_dim


def test_stable_diffusion_bank_has_16_entries():
    assert (
        len(AppearanceReference.from_unet(sd15_unet())(noise(1, 1, 4, 8, 8), torch.tensor([5]), prompt()))
        == 16
    )


def test_references_are_concatenated_in_order():
    reference = AppearanceReference.from_unet(toy_unet())
    latents, timesteps = noise(2, 2, 4, 8, 8), torch.tensor([3, 700])
    together = reference(latents, timesteps, prompt())
    for r in (0, 1):
        alone = reference(latents[:, r : r + 1], timesteps, prompt())
        for name in together:
            torch.testing.assert_close(together[name].chunk(2, dim=1)[r], alone[name], **CLOSE)


def test_copies_of_the_target_change_nothing(unet):
    """Eq. 5: attention over the target's tokens and n copies of them equals attention over its tokens."""
    latents, timesteps = noise(2, 4, 8, 8), torch.tensor([500, 20])
    denoiser, reference = Denoiser(unet, prompt()), AppearanceReference.from_unet(unet)
    bank = reference(latents.unsqueeze(1).expand(-1, 3, -1, -1, -1), timesteps, prompt())
    torch.testing.assert_close(denoiser(latents, timesteps, bank), denoiser(latents, timesteps), **CLOSE)


def test_views_of_a_portrait_share_one_bank():
    unet = toy_unet()
    denoiser, reference = Denoiser(unet, prompt()), AppearanceReference.from_unet(unet)
    latents, timesteps = noise(6, 4, 8, 8), torch.full((6,), 400)
    portraits = noise(2, 1, 4, 8, 8, seed=1)
    shared = reference(portraits, timesteps[:2], prompt())
    copies = reference(portraits.repeat_interleave(3, dim=0), timesteps, prompt())
    together = denoiser(latents, timesteps, shared, views=3)
    torch.testing.assert_close(together, denoiser(latents, timesteps, copies), **CLOSE)


def test_projected_bank_matches_the_bank():
    unet = toy_unet()
    denoiser, reference = Denoiser(unet, prompt()), AppearanceReference.from_unet(unet)
    latents, timesteps = noise(4, 4, 8, 8), torch.full((4,), 400)
    bank = reference(noise(2, 2, 4, 8, 8, seed=1), timesteps[:2], prompt())
    projected = denoiser.project(bank)
    ours = denoiser(latents, timesteps, projected, views=2)
    torch.testing.assert_close(ours, denoiser(latents, timesteps, bank, views=2), **CLOSE)


def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
    unet = sd15_unet()
    reference = shake(AppearanceReference.from_unet(unet)).train()
    denoiser = Denoiser(unet.requires_grad_(False), prompt(5), gradient_checkpointing=checkpointing)
    reference.gradient_checkpointing = checkpointing
    timesteps = torch.tensor([40, 800])
    # at 16x16 latents the innermost attention has several tokens; over a single one its gradient is zero
    bank = reference(noise(2, 1, 4, 16, 16, seed=1), timesteps, prompt(5))
    denoiser(noise(4, 4, 16, 16), timesteps.repeat_interleave(2), bank, views=2).square().mean().backward()
    assert all(parameter.grad is None for parameter in unet.parameters())
    return {name: parameter.grad for name, parameter in reference.named_parameters()}


def test_every_weight_of_f_ref_gets_a_gradient():
    for name, gradient in gradients(checkpointing=False).items():
        assert gradient is not None, name
        assert gradient.abs().max() > 0, name


def test_gradient_checkpointing_keeps_gradients():
    kept, recomputed = gradients(checkpointing=False), gradients(checkpointing=True)
    for name, gradient in kept.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-9)


def test_f_ref_omits_layers_after_its_last_attention():
    unet = sd15_unet()
    names = set(AppearanceReference.from_unet(unet).state_dict())
    unread = {name for name in unet.state_dict() if name not in names}
    last = "up_blocks.3.attentions.2"
    assert names < set(unet.state_dict())
    assert {name.split(".")[0] for name in unread} == {"conv_norm_out", "conv_out", "up_blocks"}
    assert f"{last}.transformer_blocks.0.norm1.weight" in names
    assert not any(name.startswith(f"{last}.transformer_blocks.0.attn1") for name in names)
    assert not any(name.startswith(f"{last}.proj_out") for name in names)


def test_f_ref_folder_round_trip(tmp_path):
    reference = shake(AppearanceReference.from_unet(toy_unet()))
    save_model(reference, tmp_path / "appearance_reference")
    latents, timesteps = noise(1, 1, 4, 8, 8), torch.tensor([9])
    bank = reference(latents, timesteps, prompt())
    for loaded in (
        load_model(AppearanceReference, tmp_path / "appearance_reference"),
        AppearanceReference.from_pretrained(tmp_path / "appearance_reference"),
    ):
        kept, read = reference.state_dict(), loaded.state_dict()
        assert kept.keys() == read.keys()
        assert all(torch.equal(kept[name], read[name]) for name in kept)
        again = loaded(latents, timesteps, prompt())
        for name in bank:
            # memory alignment decides the kernel, and so the rounding
            torch.testing.assert_close(again[name], bank[name], **CLOSE)


def test_bank_without_a_layer_raises_key_error():
    denoiser = Denoiser(toy_unet(), prompt())
    with pytest.raises(KeyError, match="attn1"):
        denoiser(noise(1, 4, 8, 8), torch.tensor([5]), ReferenceBank({"another": noise(1, 4, 8)}))


@pytest.mark.parametrize(
    ("latents", "views", "message"),
    [
        (noise(1, 4, 6, 8), 1, "6x8 does not divide by 4"),
        (noise(1, 3, 8, 8), 1, "takes .N, 4, H, W."),
        (noise(3, 4, 8, 8), 2, "3 latents are not a multiple of 2 views"),
    ],
)
def test_invalid_latent_shapes_are_input_errors(latents, views, message):
    with pytest.raises(InputError, match=message):
        Denoiser(toy_unet(), prompt())(latents, torch.full((len(latents),), 5), views=views)


def test_unet_without_decoder_attention_is_an_input_error():
    unet = toy_unet(up_block_types=("UpBlock2D",) * 3)
    with pytest.raises(InputError, match="no attention in the UNet's decoder"):
        AppearanceReference.from_unet(unet)
