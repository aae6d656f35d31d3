"""The small backbone: the pool it learns from, both trainings end to end, and the folder they make."""

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from callbacks.export import Export
from callbacks.weight_average import WeightAverage
from core.errors import InputError
from core.model_folders import save_model
from datamodules.pool import ImagePool, PoolLoader
from lightning_modules.backbone import AutoencoderModule, BackboneModule
from lightning_modules.networks.pretrained import load_backbone
from lightning_modules.optimization import Learning
from tests.networks.toy import toy_vae


def test_the_pool_has_every_view_and_condition(capture):
    pool = ImagePool([str(capture)], batch_size=8, val_images=5)
    pool.setup("fit")
    # 4 people × 2 frames × 4 views, and as many conditions
    assert pool.train_rows.shape == (64, 3, 16, 16)
    assert pool.train_rows.dtype == torch.uint8
    assert len(pool.val_rows) == 5
    assert len(pool.train_dataloader()) == 8


def test_mirrored_images_come_on_top(capture):
    pools = [ImagePool([str(capture)], batch_size=8, mirror=mirror) for mirror in (False, True)]
    for pool in pools:
        pool.setup("fit")
    plain, mirrored = (pool.train_rows for pool in pools)
    assert torch.equal(mirrored, torch.cat([plain, plain.flip(-1)]))
    assert torch.equal(pools[0].val_rows, pools[1].val_rows)


def test_encoded_batches_are_what_the_vae_says(capture, tmp_path):
    save_model(toy_vae(), tmp_path / "vae")
    images = ImagePool([str(capture)], batch_size=8)
    encoded = ImagePool([str(capture)], batch_size=8, vae=str(tmp_path / "vae"), encode_batch=5)
    images.setup("fit")
    encoded.setup("fit")
    image, moments = next(iter(images.train_dataloader())), next(iter(encoded.train_dataloader()))
    with torch.no_grad():
        expected = toy_vae().encode(image["images"].float() / 127.5 - 1).latent_dist.parameters
    assert moments["moments"].shape == (8, 8, 4, 4)
    # bfloat16 arithmetic
    assert (moments["moments"].float() - expected).norm() / expected.norm() < 0.02


def test_each_image_once_an_epoch_in_another_order_each_time():
    loader = PoolLoader(torch.arange(12), "rows", 4, seed=0)
    epochs = [torch.cat([batch["rows"] for batch in loader]).tolist() for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]


def test_ranks_share_an_epoch_without_overlap():
    ranks = [PoolLoader(torch.arange(16), "rows", 4, 0, rank, 2) for rank in range(2)]
    seen = [torch.cat([batch["rows"] for batch in loader]).tolist() for loader in ranks]
    assert sorted(seen[0] + seen[1]) == list(range(16))


def test_pools_that_cannot_be_are_one_line(capture, tmp_path):
    with pytest.raises(InputError, match=r"manifest\.json"):
        ImagePool([str(tmp_path)]).setup("fit")
    with pytest.raises(InputError, match="64 training and 64 validation images"):
        ImagePool([str(capture)], batch_size=65).setup("fit")


def test_from_images_to_a_backbone_folder(capture, make_trainer, tmp_path):
    learning = Learning(1e-3)
    vae = AutoencoderModule([8, 8], norm_num_groups=4, image_size=16, learning=learning)
    callbacks = [WeightAverage(0.5), Export(str(tmp_path / "vae"))]
    trainer = make_trainer(max_steps=3, callbacks=callbacks, limit_val_batches=1.0, val_check_interval=2)
    trainer.fit(vae, ImagePool([str(capture)], batch_size=16))
    assert trainer.callback_metrics["val/PSNR"] > 0
    assert vae.pictures({"images": torch.zeros(2, 3, 16, 16)})["reconstructions"].shape == (2, 2, 3, 16, 16)

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
    latents = DiagonalGaussianDistribution(data.train_rows.float()).sample(torch.Generator().manual_seed(0))
    assert backbone.vae.config.scaling_factor * latents.std() == pytest.approx(1, rel=0.1)
    average = callbacks[0].average["denoiser.unet.conv_in.weight"]
    assert torch.equal(backbone.unet.conv_in.weight, average)
    assert torch.equal(backbone.empty_prompt, unet.denoiser.empty_prompt)


def test_an_existing_export_is_refused_before_training(capture, make_trainer, tmp_path):
    vae = AutoencoderModule([8, 8], norm_num_groups=4, image_size=16)
    with pytest.raises(InputError, match="exists already"):
        make_trainer(callbacks=[Export(str(tmp_path))]).fit(vae, ImagePool([str(capture)], batch_size=16))


def test_a_missing_vae_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"config\.json is missing"):
        BackboneModule(str(tmp_path), [8, 8])
