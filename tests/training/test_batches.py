"""What each step is trained on."""

from dataclasses import replace

import numpy as np
import torch
from training_factories import TINY, slice_set

from vaeseg.training.augment import augment
from vaeseg.training.batches import epoch_order, step_noise, training_batch, whole_batch


def test_each_training_slice_comes_once_an_epoch() -> None:
    """Without slices_per_epoch an epoch is a permutation, another one each epoch."""
    slices, train = slice_set(), np.arange(5, 25)
    orders = [epoch_order(slices, train, TINY, epoch) for epoch in (0, 1, 0)]
    assert all(sorted(order) == list(train) for order in orders)
    assert np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], orders[1])


def test_tumour_share_oversamples() -> None:
    """With a share of 1 every drawn slice holds a label, and none lies outside the training part."""
    slices, train = slice_set(), np.arange(0, 15)
    config = replace(TINY, slices_per_epoch=40, tumour_share=1.0)
    order = epoch_order(slices, train, config, 0)
    assert len(order) == 40
    assert set(order) <= set(train)
    assert slices.holds_label()[order].all()


def test_tumour_share_without_any_tumour_draws_all_the_same() -> None:
    """Slices without labels still make an epoch of the asked length."""
    slices = slice_set(with_labels=False)
    config = replace(TINY, slices_per_epoch=12, tumour_share=0.5)
    assert len(epoch_order(slices, np.arange(9), config, 0)) == 12


def test_whole_batch_is_the_slices_themselves() -> None:
    """Intensity is (HU + 1000) / 1400, labels are unpacked bit for bit."""
    slices, indices = slice_set(), np.array([4, 1])
    batch = whole_batch(slices, indices)
    expected = np.clip((slices.images_hu[indices].astype(np.float32) + 1000) / 1400, 0, 1)
    np.testing.assert_allclose(batch.images[:, 0].numpy(), expected, atol=1e-6)
    assert np.array_equal(batch.labels[:, 0].numpy() > 0, slices.labels(indices))
    assert batch.labels.sum() == 800


def test_crops_keep_image_and_label_together_and_show_the_tumour() -> None:
    """Each crop of a slice with a label contains some of it, and bright pixels are exactly the label."""
    slices = slice_set()
    config = replace(TINY, crop_size=32)
    with_label = np.flatnonzero(slices.holds_label())
    for step in range(5):
        batch = training_batch(slices, with_label, config, epoch=0, step=step)
        assert batch.images.shape == batch.labels.shape == (len(with_label), 1, 32, 32)
        assert (batch.labels.sum(dim=(1, 2, 3)) > 0).all()
        assert torch.equal(batch.images > 0.5, batch.labels > 0)


def test_a_step_is_the_same_whenever_it_is_made() -> None:
    """Batch and noise follow from seed, epoch and step; any of the three changes them."""
    slices, indices = slice_set(), np.arange(8)
    config = replace(TINY, crop_size=32, augmentation="dihedral", intensity_jitter=0.1)
    first, again = (training_batch(slices, indices, config, 2, 3) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    for other in ((config, 2, 4), (config, 3, 3), (replace(config, seed=9), 2, 3)):
        assert not torch.equal(first.images, training_batch(slices, indices, *other).images)
    assert torch.equal(step_noise((2, 3), config, 2, 3), step_noise((2, 3), config, 2, 3))
    assert not torch.equal(step_noise((2, 3), config, 2, 3), step_noise((2, 3), config, 2, 4))


def test_flip_moves_left_and_right_only() -> None:
    """Every flipped image is the original or its mirror image, label alike, and both occur."""
    images = torch.rand(32, 1, 6, 6)
    moved, labels = augment(images, images > 0.5, torch.Generator().manual_seed(1), "flip", 0.0)
    same = (moved == images).all(dim=(1, 2, 3))
    mirrored = (moved == images.flip(-1)).all(dim=(1, 2, 3))
    assert (same | mirrored).all()
    assert same.any()
    assert mirrored.any()
    assert torch.equal(labels, moved > 0.5)


def test_dihedral_takes_all_eight_moves() -> None:
    """Among many copies of one image all eight turned and mirrored forms occur."""
    image = torch.arange(16.0).reshape(1, 1, 4, 4) / 16
    images = image.repeat(200, 1, 1, 1)
    moved, _ = augment(images, images, torch.Generator().manual_seed(1), "dihedral", 0.0)
    assert len({tuple(one.flatten().tolist()) for one in moved}) == 8


def test_jitter_stays_within_its_bound_and_leaves_labels_alone() -> None:
    """Gain and offset of 0.1 move an intensity of 0.5 by at most 0.15."""
    images, labels = torch.full((50, 1, 2, 2), 0.5), torch.ones(50, 1, 2, 2)
    moved, kept = augment(images, labels, torch.Generator().manual_seed(1), "none", 0.1)
    assert 0.05 < (moved - 0.5).abs().max() <= 0.15
    assert torch.equal(kept, labels)
