"""What each step is trained on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_factories import TINY, slice_index, slice_set

from vaeseg.training.augment import crop_corners, cropped, gamma_changed, jittered, moved, noisy, warp_grids, warped
from vaeseg.training.batches import Batch, Step, augmented, epoch_order, step_generator, step_noise, steps_of
from vaeseg.training.parallel import ALONE, Worker
from vaeseg.training.sources import batch_of

CPU = torch.device("cpu")
BOTH = [Worker(rank=0, world=2), Worker(rank=1, world=2)]


def one_group(n_slices: int) -> np.ndarray:
    return np.zeros(n_slices, dtype=np.int64)


def test_each_training_slice_comes_once_an_epoch() -> None:
    """Without slices_per_epoch an epoch is a permutation, another one each epoch."""
    index, train = slice_index(), np.arange(5, 25)
    orders = [epoch_order(index, one_group(30), train, TINY, epoch) for epoch in (0, 1, 0)]
    assert all(sorted(order) == list(train) for order in orders)
    assert np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], orders[1])


def test_windows_keep_row_groups_together() -> None:
    """With a window of two row groups, each window of the order needs two groups, and is shuffled inside."""
    groups = np.repeat(np.arange(6), 5)
    config = replace(TINY, shuffle_window=10)
    order = epoch_order(slice_index(), groups, np.arange(30), config, 0)
    assert sorted(order) == list(range(30))
    assert all(len(set(groups[order[first : first + 10]])) == 2 for first in (0, 10, 20))
    assert not np.array_equal(np.sort(order[:10]), order[:10])


def test_tumour_share_oversamples() -> None:
    """With a share of 1 every drawn slice holds a label, and none lies outside the training part."""
    index, train = slice_index(), np.arange(0, 15)
    order = epoch_order(index, one_group(30), train, replace(TINY, slices_per_epoch=40, tumour_share=1.0), 0)
    assert len(order) == 40
    assert set(order) <= set(train)
    assert (index.tumour_pixels[order] > 0).all()


def test_tumour_share_without_any_tumour_draws_all_the_same() -> None:
    """Slices without labels still make an epoch of the asked length."""
    config = replace(TINY, slices_per_epoch=12, tumour_share=0.5)
    assert len(epoch_order(slice_index(with_labels=False), one_group(30), np.arange(9), config, 0)) == 12


def test_steps_cover_an_epoch_from_any_place() -> None:
    """Every place once; a rest smaller than the number of workers joins the step before it."""
    two = Worker(world=2)
    assert steps_of(20, 0, 8, two) == [Step(first=0, end=8), Step(first=8, end=16), Step(first=16, end=20)]
    assert steps_of(17, 0, 8, two)[-1] == Step(first=8, end=17)
    assert steps_of(17, 0, 8, ALONE)[-1] == Step(first=16, end=17)
    assert steps_of(20, 16, 8, two) == [Step(first=16, end=20)]
    assert steps_of(20, 20, 8, two) == []


def test_a_rest_that_more_workers_cannot_share_is_left_out() -> None:
    """One worker had trained on 64 of 65 slices when three went on: none of them gets a share of nothing."""
    three = Worker(world=3)
    assert steps_of(65, 64, 48, three) == []
    assert steps_of(65, 62, 48, three) == [Step(first=62, end=65)]


def test_shares_of_a_step_are_even_and_without_repeats() -> None:
    """Three workers take 11 slices as 3, 4 and 4, each once."""
    step = Step(first=100, end=111)
    shares = [list(range(11))[step.share(Worker(rank=rank, world=3))] for rank in range(3)]
    assert [len(share) for share in shares] == [3, 4, 4]
    assert [place for share in shares for place in share] == list(range(11))


def test_whole_batch_is_the_slices_themselves() -> None:
    """Intensity is the stored value over its largest, in 8 and 16 bits; labels are unpacked bit for bit."""
    for bits in (8, 16):
        slices = slice_set(bits=bits).take(np.array([4, 1]))
        batch = batch_of(slices, CPU)
        np.testing.assert_allclose(batch.images[:, 0].numpy(), slices.images / (2**bits - 1), atol=1e-7)
        assert np.array_equal(batch.labels[:, 0].numpy() > 0, slices.labels(np.arange(2)))
        assert batch.labels.sum() == 800


def test_crops_keep_image_and_label_together_and_show_the_tumour() -> None:
    """Each crop of a slice with a label contains some of it, and bright pixels are exactly the label."""
    with_label = np.flatnonzero(slice_index().tumour_pixels)
    batch = batch_of(slice_set().take(with_label), CPU)
    for place in range(5):
        step = Step(first=place, end=place + len(with_label))
        crop = augmented(batch, replace(TINY, crop_size=32), step, ALONE, step_generator(TINY, 0, step, CPU))
        assert crop.images.shape == crop.labels.shape == (len(with_label), 1, 32, 32)
        assert (crop.labels.sum(dim=(1, 2, 3)) > 0).all()
        assert torch.equal(crop.images > 0.5, crop.labels > 0)


def test_corners_reach_every_place() -> None:
    """Without a label a corner may be anywhere; around a pixel in the corner of the slice it stays inside."""
    empty = torch.zeros(500, 1, 6, 6)
    corners = crop_corners(empty, torch.rand(500, 3, generator=torch.Generator().manual_seed(1)), 4)
    assert {tuple(corner) for corner in corners.tolist()} == {(top, left) for top in range(3) for left in range(3)}
    edge = empty.clone()
    edge[:, 0, 5, 0] = 1
    corners = crop_corners(edge, torch.rand(500, 3), 4)
    assert torch.equal(corners, torch.tensor([[2, 0]]).expand(500, 2))
    assert torch.equal(cropped(edge, corners, 4)[:, 0, 3, 0], torch.ones(500))


def test_every_tumour_pixel_can_be_chosen() -> None:
    """The first and the last tumour pixel are what the smallest and the largest number choose."""
    label = torch.zeros(2, 1, 8, 8)
    label[:, 0, 2, 3] = label[:, 0, 6, 5] = 1
    corners = crop_corners(label, torch.tensor([[0.0, 0.0, 0.0], [0.999, 0.0, 0.0]]), 2)
    assert corners.tolist() == [[2, 3], [6, 5]]


def test_a_step_is_the_same_whenever_and_wherever_it_is_made() -> None:
    """Two workers together see what one sees; another seed, epoch or place changes it."""
    config = replace(
        TINY, crop_size=32, augmentation="dihedral", intensity_jitter=0.1, gamma_jitter=0.3, noise=0.05, warp_share=0.5
    )
    batch, step = batch_of(slice_set().take(np.arange(8)), CPU), Step(first=16, end=24)

    def made(worker: Worker, config=config, epoch: int = 2, step: Step = step) -> tuple[Batch, torch.Tensor]:
        generator = step_generator(config, epoch, step, CPU)
        share = step.share(worker)
        own = Batch(images=batch.images[share], labels=batch.labels[share])
        return augmented(own, config, step, worker, generator), step_noise((8, 2, 3, 3), step, worker, generator)

    alone, noise = made(ALONE)
    parts = [made(worker) for worker in BOTH]
    assert torch.equal(torch.cat([part.images for part, _ in parts]), alone.images)
    assert torch.equal(torch.cat([part.labels for part, _ in parts]), alone.labels)
    assert torch.equal(torch.cat([part for _, part in parts]), noise)
    for other in ({"epoch": 3}, {"config": replace(config, seed=9)}, {"step": Step(first=24, end=32)}):
        assert not torch.equal(made(ALONE, **other)[0].images, alone.images)
        assert not torch.equal(made(ALONE, **other)[1], noise)


def test_flip_moves_left_and_right_only() -> None:
    """Every flipped image is the original or its mirror image, label alike, and both occur."""
    images, uniform = torch.rand(32, 1, 6, 6), torch.rand(32)
    flipped = moved(images, uniform, "flip")
    same = (flipped == images).all(dim=3).all(dim=2).flatten()
    mirrored = (flipped == images.flip(-1)).all(dim=3).all(dim=2).flatten()
    assert (same ^ mirrored).all()
    assert same.any()
    assert mirrored.any()
    assert torch.equal(moved(images > 0.5, uniform, "flip"), flipped > 0.5)


def test_dihedral_takes_all_eight_moves() -> None:
    """Eight numbers, evenly spread, give the eight turned and mirrored forms of an image."""
    images = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(8, 1, 1, 1)
    turned = moved(images, (torch.arange(8) + 0.5) / 8, "dihedral")
    expected = {
        tuple(torch.rot90(image, quarter, (-2, -1)).flatten().tolist())
        for image in (images[0], images[0].flip(-1))
        for quarter in range(4)
    }
    assert {tuple(one.flatten().tolist()) for one in turned} == expected


def test_jitter_stays_within_its_bound() -> None:
    """Gain and offset of 0.1 move an intensity of 0.5 by at most 0.15, and never out of [0, 1]."""
    uniform = torch.rand(50, 2, generator=torch.Generator().manual_seed(1))
    changed = jittered(torch.full((50, 1, 2, 2), 0.5), uniform, 0.1)
    assert 0.05 < (changed - 0.5).abs().max() <= 0.15
    bright = jittered(torch.ones(50, 1, 2, 2), uniform, 0.1)
    assert bright.max() == 1
    assert bright.min() < 1


def test_warps_move_image_and_label_together() -> None:
    """Turned, scaled and shifted, what is bright is still what is labelled, but for pixels on the edge."""
    batch = batch_of(slice_set().take(np.flatnonzero(slice_index().tumour_pixels)), CPU)
    step = Step(first=0, end=len(batch.images))
    config = replace(TINY, warp_share=1.0)
    changed = augmented(batch, config, step, ALONE, step_generator(TINY, 0, step, CPU))
    assert set(changed.labels.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(changed.labels, batch.labels)
    assert ((changed.images > 0.45) != (changed.labels > 0)).float().mean() < 0.01


def test_a_warp_does_what_its_numbers_say() -> None:
    """The middle of each range changes nothing; the largest scale doubles a square's area; shifts and turns too."""
    square = torch.zeros(1, 1, 64, 64)
    square[..., 24:40, 24:40] = 1

    def sampled(*drawn: float, share: float = 1.0) -> torch.Tensor:
        return warped(square, warp_grids(torch.tensor([drawn]), 64, share, 2**0.5, 0.25))

    torch.testing.assert_close(sampled(0.0, 0.5, 0.5, 0.5, 0.5), square)
    torch.testing.assert_close(sampled(0.6, 1.0, 0.1, 0.9, 0.3, share=0.5), square)
    assert sampled(0.0, 1.0, 0.5, 0.5, 0.5).sum() == pytest.approx(2 * 256, rel=0.05)
    torch.testing.assert_close(sampled(0.0, 0.5, 0.75, 0.5, 0.5), square.rot90(1, (-2, -1)), atol=1e-4, rtol=0)
    torch.testing.assert_close(sampled(0.0, 0.5, 0.5, 1.0, 0.5)[..., 24:40, 8:24], torch.ones(1, 1, 16, 16))


def test_gamma_and_noise_stay_within_their_bounds() -> None:
    """A half to the power of exp(-0.3) to exp(0.3); noise up to the deviation given; nothing leaves [0, 1]."""
    halves, uniform = torch.full((200, 1, 8, 8), 0.5), torch.linspace(0, 1, 200)
    powers = gamma_changed(halves, uniform, 0.3)
    assert powers.min() == pytest.approx(0.5 ** np.exp(0.3), rel=1e-4)
    assert powers.max() == pytest.approx(0.5 ** np.exp(-0.3), rel=1e-4)
    normal = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    noise = noisy(halves, uniform, normal, 0.1) - 0.5
    assert noise[-1].std() == pytest.approx(0.1, rel=0.3)
    assert torch.equal(noise[0], torch.zeros(1, 8, 8))
    loud = noisy(halves, uniform, 100 * normal, 0.1)
    assert (loud.min(), loud.max()) == (0, 1)
