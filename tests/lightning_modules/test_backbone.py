"""The small backbone: its image pool, the training of VAE and UNet, and the resulting folder."""

import shutil
from dataclasses import replace

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from callbacks.export import Export
from callbacks.weight_average import WeightAverage
from core.errors import InputError
from core.model_folders import save_model
from datamodules.pool import ImagePool, OrderedLoader, Pool, PoolLoader, others
from lightning_modules.backbone_unet import BackboneModule
from lightning_modules.backbone_vae import AutoencoderModule
from lightning_modules.networks.pretrained import load_backbone
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.optimization import Learning
from tests.networks.toy import toy_vae


def unpaired(count: int) -> Pool:
    """A pool of the numbers below `count`, each of another person."""
    return Pool(torch.arange(count), torch.arange(count), torch.ones(count, dtype=torch.long))


def test_pool_has_every_view(capture):
    pool = ImagePool([str(capture)], batch_size=8, val_images=5)
    pool.setup("fit")
    # 4 people × 2 frames × 4 views
    assert pool.train.rows.shape == (32, 3, 16, 16)
    assert pool.train.rows.dtype == torch.uint8
    assert sum(len(batch["images"]) for batch in pool.val_dataloader()) == 5
    assert len(pool.train_dataloader()) == 4


def test_mirrored_images_are_appended(capture):
    pools = [ImagePool([str(capture)], batch_size=8, mirror=mirror) for mirror in (False, True)]
    for pool in pools:
        pool.setup("fit")
    plain, mirrored = (pool.train.rows for pool in pools)
    assert torch.equal(mirrored, torch.cat([plain, plain.flip(-1)]))
    assert torch.equal(pools[0].val.rows, pools[1].val.rows)


def test_pairs_are_of_one_person_and_mirrored_together(capture):
    """A fake frame has 4 views, which are each other's partners."""
    data = ImagePool([str(capture)], batch_size=32, mirror=True, pairs=True)
    data.setup("fit")
    pool = data.train
    assert torch.equal(pool.count, torch.full((64,), 4))
    for batch in data.train_dataloader():
        rows = [
            [(pool.rows == x).flatten(1).all(1).nonzero().flatten() for x in batch[name]]
            for name in ("images", "other_images")
        ]
        assert batch["paired"].all()
        for own, other in zip(*rows, strict=True):
            assert any((a // 4 == b // 4) and a != b for a in own.tolist() for b in other.tolist())
    first, again = (next(iter(data.val_dataloader())) for _ in "12")
    assert torch.equal(first["other_images"], again["other_images"])


def test_partners_are_uniform_over_the_other_views():
    pool = Pool(torch.arange(6), torch.tensor([0, 1, 1, 1, 1, 5]), torch.tensor([1, 4, 4, 4, 4, 1]))
    both = Pool.cat([pool, pool])
    index = torch.arange(12).repeat(3000)
    places = torch.rand(len(index), generator=torch.Generator().manual_seed(0))
    others = both.others(index, places).view(-1, 12)
    assert (others[:, [0, 5, 6, 11]] == torch.tensor([0, 5, 6, 11])).all()
    for row in (1, 4, 8):
        found, counts = others[:, row].unique(return_counts=True)
        assert found.tolist() == [r for r in range(row - (row % 6) + 1, row - (row % 6) + 5) if r != row]
        assert counts.min() > 800


def test_encoded_batches_match_the_vae(capture, tmp_path):
    save_model(toy_vae(), tmp_path / "vae")
    images = ImagePool([str(capture)], batch_size=8)
    encoded = ImagePool([str(capture)], batch_size=8, vae=str(tmp_path / "vae"), encode_batch=5)
    images.setup("fit")
    encoded.setup("fit")
    image, moments = next(iter(images.train_dataloader())), next(iter(encoded.train_dataloader()))
    with torch.no_grad():
        expected = toy_vae().encode(image["images"].float() / 127.5 - 1).latent_dist.parameters
    assert moments["moments"].shape == (8, 8, 4, 4)
    # stored in half precision
    assert (moments["moments"].float() - expected).norm() / expected.norm() < 1e-3


def test_latent_cache_depends_on_vae_and_images(capture, tmp_path, monkeypatch):
    def rows(mirror=False) -> torch.Tensor:
        pool = ImagePool([str(capture)], 8, str(tmp_path / "vae"), mirror, cache_dir=str(tmp_path / "cache"))
        pool.setup("fit")
        return pool.train.rows

    save_model(toy_vae(), tmp_path / "vae")
    encoded = rows()
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Conv2d, "forward", None)  # fails if anything is encoded
        assert torch.equal(rows(), encoded)
    assert len(rows(mirror=True)) == 2 * len(encoded)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = type(toy_vae()).from_config(toy_vae().config)
    shutil.rmtree(tmp_path / "vae")
    save_model(other, tmp_path / "vae")
    assert not torch.equal(rows(), encoded)


def test_epochs_are_different_permutations():
    loader = PoolLoader(unpaired(12), "rows", 4, seed=0)
    epochs = [torch.cat([batch["rows"] for batch in loader]).tolist() for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]


def test_ranks_split_an_epoch_without_overlap():
    ranks = [PoolLoader(unpaired(16), "rows", 4, 0, rank, 2) for rank in range(2)]
    seen = [torch.cat([batch["rows"] for batch in loader]).tolist() for loader in ranks]
    assert sorted(seen[0] + seen[1]) == list(range(16))


def test_batches_of_all_ranks_are_those_of_one():
    pool = Pool(torch.arange(24), torch.arange(24) // 4 * 4, torch.full((24,), 4))

    def stream(ranks):
        """By step, the rows and other rows of each position."""
        loaders = [PoolLoader(pool, "rows", 8 // ranks, 0, rank, ranks, pairs=True) for rank in range(ranks)]
        epochs = [zip(*loaders, strict=True) for _ in range(2)]
        names = ("rows", "other_rows")
        return [
            {
                place: tuple(int(batch[name][i]) for name in names)
                for batch in batches
                for i, place in enumerate(batch["position"].tolist())
            }
            for epoch in epochs
            for batches in epoch
        ]

    alone = stream(1)
    assert [place for step in alone for place in step] == list(range(48))
    assert stream(2) == stream(4) == alone


def test_invalid_pools_are_input_errors(capture, tmp_path):
    with pytest.raises(InputError, match=r"manifest\.json"):
        ImagePool([str(tmp_path)]).setup("fit")
    with pytest.raises(InputError, match="32 training and 32 validation images"):
        ImagePool([str(capture)], batch_size=33).setup("fit")


def test_vae_and_unet_train_into_a_backbone_folder(capture, make_trainer, tmp_path):
    learning = Learning(1e-3)
    vae = AutoencoderModule([8, 8], norm_num_groups=4, image_size=16, learning=learning)
    callbacks = [WeightAverage(0.5), Export(str(tmp_path / "vae"))]
    trainer = make_trainer(max_steps=3, callbacks=callbacks, limit_val_batches=1.0, val_check_interval=2)
    trainer.fit(vae, ImagePool([str(capture)], batch_size=16))
    assert trainer.callback_metrics["val/PSNR"] > 0
    assert vae.pictures({"images": torch.zeros(2, 3, 16, 16)})["reconstructions"].shape == (2, 2, 3, 16, 16)

    trained = {name: x.clone() for name, x in vae.vae.state_dict().items()}
    vae.export(tmp_path / "again")
    assert all(torch.equal(x, trained[name]) for name, x in vae.vae.state_dict().items())

    path = str(tmp_path / "vae")
    unet = BackboneModule(
        path,
        [8, 8],
        norm_num_groups=4,
        cross_attention_dim=8,
        learning=learning,
        half_precision=False,
        sample_steps=2,
    )
    callbacks = [WeightAverage(0.5), Export(str(tmp_path / "backbone"))]
    data = ImagePool([str(capture)], batch_size=16, vae=path)
    trainer = make_trainer(max_steps=3, callbacks=callbacks, limit_val_batches=1.0, val_check_interval=2)
    trainer.fit(unet, data)
    assert trainer.callback_metrics["val/loss"] > 0
    assert unet.pictures(next(iter(data.val_dataloader())))["samples"].shape == (16, 1, 3, 16, 16)

    backbone = load_backbone(str(tmp_path / "backbone"))
    latents = DiagonalGaussianDistribution(data.train.rows.float()).sample(torch.Generator().manual_seed(0))
    assert backbone.vae.config.scaling_factor * latents.std() == pytest.approx(1, rel=0.1)
    means = data.train.rows.float().chunk(2, 1)[0]  # float16, and of mirror images as well
    assert torch.allclose(torch.cov(means.transpose(0, 1).flatten(1)), torch.eye(4), atol=0.02)
    average = callbacks[0].average["denoiser.unet.conv_in.weight"]
    assert torch.equal(backbone.unet.conv_in.weight, average)
    assert torch.equal(backbone.empty_prompt, unet.denoiser.empty_prompt)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_vaes_images_has_another_hue(share):
    module = AutoencoderModule([8, 8], norm_num_groups=4, image_size=16, hue=share)
    images = torch.rand(64, 3, 2, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    draws = [torch.Generator().manual_seed(number) for number in range(64)]
    made = module.augmented(images, draws)
    same = [
        any(torch.equal(new, old) for old in (row, row.flip(-1)))
        for new, row in zip(made, images, strict=True)
    ]
    assert 1 - sum(same) / 64 == pytest.approx(share, abs=0.15)
    assert torch.allclose(made.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=1e-6)


@pytest.mark.parametrize("name", ["colour", "texture"])
def test_losses_of_colours_and_texture_count_by_their_weights(capture, name):
    data = ImagePool([str(capture)], batch_size=4)
    data.setup("fit")
    batch, totals = next(iter(data.train_dataloader())), []
    for weight in (0.0, 2.0):
        torch.manual_seed(0)
        module = AutoencoderModule([8, 8], norm_num_groups=4, image_size=16, **{f"{name}_weight": weight})
        total, losses = module.training_losses(batch)
        totals.append(total)
    assert losses[name] > 0
    torch.testing.assert_close(totals[1] - totals[0], 2 * losses[name])


def test_only_the_decoder_of_a_given_vae_is_trained(capture, make_trainer, tmp_path):
    first = toy_vae()
    first.register_to_config(scaling_factor=0.5)
    save_model(first, tmp_path / "first")
    widths, groups = first.config.block_out_channels, first.config.norm_num_groups
    again = AutoencoderModule(
        list(widths), norm_num_groups=groups, image_size=16, decoder_of=str(tmp_path / "first")
    )
    trainer = make_trainer(max_steps=2, callbacks=[Export(str(tmp_path / "again"))])
    trainer.fit(again, ImagePool([str(capture)], batch_size=16))
    made = AutoencoderKL.from_pretrained(tmp_path / "again")
    assert made.config.scaling_factor == 0.5
    changed = {n for n, x in first.state_dict().items() if not torch.equal(x, made.state_dict()[n])}
    assert any(name.startswith("decoder.") for name in changed)
    assert not any(name.startswith(("encoder.", "quant_conv.")) for name in changed)


def test_a_decoder_of_another_architecture_is_an_input_error(tmp_path):
    save_model(toy_vae(), tmp_path / "first")
    with pytest.raises(InputError, match="another architecture"):
        AutoencoderModule([24, 8], norm_num_groups=4, decoder_of=str(tmp_path / "first"))


@pytest.fixture
def reader(capture, tmp_path):
    """A UNet trained to read its own features of another view, on a toy VAE, and its data."""
    save_model(toy_vae(), tmp_path / "vae")
    path = str(tmp_path / "vae")
    unet = BackboneModule(path, [8, 8], norm_num_groups=4, cross_attention_dim=8, reading=1.0)
    return unet, ImagePool([str(capture)], batch_size=16, vae=path, pairs=True)


def test_f_reads_its_own_detached_features_of_another_view(reader):
    """The bank equals that of an F_ref copied from F, and carries no gradient."""
    unet, data = reader
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    moments, other = batch["moments"], batch["other_moments"]
    assert batch["paired"].all()
    copy = AppearanceReference.from_unet(unet.denoiser.unet)
    latents = other.float().chunk(2, 1)[0] * unet.vae.config.scaling_factor
    bank = copy(latents.unsqueeze(1), torch.zeros(len(latents)), unet.denoiser.empty_prompt)
    own = unet.bank(other)
    assert set(own) == set(bank)
    for name, features in own.items():
        assert torch.equal(features, bank[name])
        assert not features.requires_grad
    drawn = unet.draws(moments, "x", range(len(moments)))
    alone, read = (unet.loss(moments, drawn, x) for x in (None, other))
    assert not torch.allclose(alone, read)


def test_validation_logs_losses_with_right_other_and_no_view(reader, make_trainer):
    unet, data = reader
    trainer = make_trainer(max_steps=2, limit_val_batches=1.0, val_check_interval=1)
    trainer.fit(unet, data)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    losses = [found[f"val/loss_reading{name}"] for name in ("", "_another", "_nobody")]
    assert len(set(losses)) == 3
    assert found["train/loss_reading"] > 0


def mean_losses(data, ranks, batch_size, loss):
    """The mean over ranks of the loss of their batches, for three steps; `loss` is given all of them too."""
    loaders = [
        PoolLoader(data.train, data.batch_name, batch_size // ranks, 0, rank, ranks, data.pairs)
        for rank in range(ranks)
    ]
    steps = [batches for batches, _ in zip(zip(*loaders, strict=True), range(3), strict=False)]
    with torch.no_grad():
        return torch.stack([torch.stack([loss(one, step) for one in step]).mean() for step in steps])


@pytest.mark.parametrize("ranks", [2, 4])
def test_loss_of_the_vae_does_not_depend_on_ranks(capture, ranks):
    vae = AutoencoderModule([8, 8], norm_num_groups=4, image_size=16)
    data = ImagePool([str(capture)], batch_size=8)
    data.setup("fit")
    alone, together = (
        mean_losses(data, n, 8, lambda one, _: vae.training_losses(one)[0]) for n in (1, ranks)
    )
    assert alone.unique().numel() == 3
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("reading", [False, True])
def test_loss_of_f_does_not_depend_on_ranks(reader, ranks, reading):
    """Also where F reads and ranks have different numbers of images with another view."""
    unet, data = reader
    data.setup("fit")
    alone = torch.arange(len(data.train)) % 3 == 0
    first, count = data.train.first.clone(), data.train.count.clone()
    first[alone], count[alone] = alone.nonzero().flatten(), 1
    data.train = replace(data.train, first=first, count=count)
    unequal = []

    def loss(one, all_ranks):
        paired = torch.stack([batch["paired"].float().mean() for batch in all_ranks])
        unequal.append(paired.unique().numel() > 1)
        return unet.training_loss(one, paired.mean() if reading else None)

    alone, together = (mean_losses(data, n, 8, loss) for n in (1, ranks))
    assert any(unequal)
    assert alone.unique().numel() == 3
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_validation_of_f_does_not_depend_on_the_batch_size(reader, make_trainer, batch_size):
    unet, data = reader
    data.val_images = 11

    def validated(size):
        data.batch_size = size
        return make_trainer(limit_val_batches=1.0).validate(unet, data, verbose=False)[0]

    whole, parts = validated(11), validated(batch_size)
    assert len(whole) == 4
    assert parts == pytest.approx(whole, rel=1e-4)


def test_another_view_is_that_of_the_next_person_who_has_one():
    pool = Pool(torch.arange(7), torch.tensor([0, 0, 2, 3, 3, 5, 5]), torch.tensor([2, 2, 1, 2, 2, 2, 2]))
    batches = list(OrderedLoader(pool, [0, 1, 2, 3, 6], "rows", 2, pairs=True))
    found = {name: torch.cat([batch[name] for batch in batches]).tolist() for name in batches[0]}
    assert found["other_rows"] == [1, 0, 2, 4, 5]
    assert found["another_rows"] == [4, 4, 2, 5, 1]
    alone = next(iter(OrderedLoader(unpaired(3), [0, 1], "rows", 2, pairs=True)))
    assert alone["another_rows"].tolist() == [0, 1]


def test_reading_without_pairs_is_an_input_error(reader, make_trainer):
    unet, data = reader
    data.pairs = False
    with pytest.raises(InputError, match=r"set data\.pairs"):
        make_trainer(max_steps=1).fit(unet, data)


def test_existing_export_is_refused_before_training(capture, make_trainer, tmp_path):
    vae = AutoencoderModule([8, 8], norm_num_groups=4, image_size=16)
    with pytest.raises(InputError, match="exists already"):
        make_trainer(callbacks=[Export(str(tmp_path))]).fit(vae, ImagePool([str(capture)], batch_size=16))


def test_missing_vae_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"config\.json is missing"):
        BackboneModule(str(tmp_path), [8, 8])


def test_others_picks_another_person():
    assert others(["a", "a", "b", "c"]).tolist() == [2, 2, 3, 0]
    assert others(["a", "a"]).tolist() == [0, 1]
    assert others(["a"]).tolist() == [0]
