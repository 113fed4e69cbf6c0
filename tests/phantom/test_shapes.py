"""The brush, the body, the trees and the tumours on their own."""

from __future__ import annotations

import numpy as np
import pytest

from vaeseg.phantom.acquisition import KERNELS, Acquisition, acquire_slice
from vaeseg.phantom.anatomy import Anatomy, draw_anatomy, rounded_min
from vaeseg.phantom.canvas import Canvas, coverage_of, paint_tubes, polyline_tubes
from vaeseg.phantom.distractors import draw_distractors
from vaeseg.phantom.growth import draw_tumours
from vaeseg.phantom.skeleton import rib_tubes
from vaeseg.phantom.texture import draw_texture
from vaeseg.phantom.tumours import Tumour, TumourKind, label_tumour
from vaeseg.phantom.vessels import MURRAY, draw_vessels


def make_canvas(side: int = 40, planes: int = 40, pixel: float = 1.0) -> Canvas:
    centres = ((np.arange(side) - 0.5 * (side - 1)) * pixel).astype(np.float32)
    z = (np.arange(planes) - 0.5 * (planes - 1)) * pixel
    return Canvas(hu=np.zeros((planes, side, side), dtype=np.float32), z_mm=z, y_mm=centres, x_mm=centres)


def make_anatomy(seed: int = 0) -> Anatomy:
    return draw_anatomy(np.random.default_rng(seed))


def some_tumours() -> list[tuple[Anatomy, Tumour]]:
    found = []
    for seed in range(14):
        anatomy = make_anatomy(seed)
        found += [(anatomy, tumour) for tumour in draw_tumours(np.random.default_rng(seed), anatomy, 0.0, 4)]
    return found


def test_coverage_is_half_on_the_border() -> None:
    """A voxel centred on a boundary is half inside; a pixel further it is in or out."""
    depth = np.array([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=np.float32)
    assert coverage_of(depth, 2.0).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_painted_tube_has_the_volume_of_a_capsule() -> None:
    """Coverage sums to the volume of a cylinder with two half balls."""
    canvas = make_canvas()
    tube = polyline_tubes(np.array([[-6.0, -4.0, 0.0], [6.0, 4.0, 3.0]]), np.array([4.0, 4.0]))
    paint_tubes(canvas, tube, 1.0, "cover")
    length = np.sqrt(144 + 64 + 9)
    assert canvas.hu.sum() == pytest.approx(np.pi * 16 * length + 4 / 3 * np.pi * 64, rel=0.02)


def test_tube_outside_the_slab_is_not_painted() -> None:
    """What does not touch the slab costs and changes nothing."""
    canvas = make_canvas()
    paint_tubes(canvas, polyline_tubes(np.array([[0.0, 0, 90], [0, 0, 99]]), np.array([2.0, 2.0])), 1.0, "cover")
    paint_tubes(canvas, polyline_tubes(np.array([[90.0, 0, 0], [99, 0, 0]]), np.array([2.0, 2.0])), 1.0, "cover")
    assert not canvas.hu.any()


def test_brighten_only_raises_and_darken_only_lowers() -> None:
    """A vessel never darkens a bone, an airway never brightens air."""
    tube = polyline_tubes(np.array([[0.0, 0, 0], [5, 0, 0]]), np.array([3.0, 3.0]))
    canvas = make_canvas()
    canvas.hu[...] = 500.0
    paint_tubes(canvas, tube, 40.0, "brighten")
    assert (canvas.hu == 500.0).all()
    canvas.hu[...] = -1000.0
    paint_tubes(canvas, tube, -985.0, "darken")
    assert (canvas.hu == -1000.0).all()


def test_scanner_and_body_space_are_inverse_but_for_the_bend() -> None:
    """Going there and back moves a point by no more than the bend's amplitude."""
    anatomy = make_anatomy()
    points = np.random.default_rng(1).uniform(-100, 100, (50, 3))
    scanner = anatomy.to_scanner(points)
    x, y = anatomy.to_body(scanner[:, 0], scanner[:, 1], scanner[:, 2])
    moved = np.hypot(x - points[:, 0], y - points[:, 1])
    assert moved.max() <= np.hypot(anatomy.bend[0], anatomy.bend[2]) + 1e-9


def test_lungs_lie_in_the_cavity_beside_the_mediastinum_above_the_diaphragm() -> None:
    """A point inside a lung is inside or outside everything else as it must be."""
    anatomy = make_anatomy(3)
    x, y, z = np.random.default_rng(2).uniform((-150, -110, -20), (150, 110, 290), (20000, 3)).T
    lung = anatomy.lung(x, y, z) > 0
    assert 0.1 < lung.mean() < 0.5
    assert (anatomy.cavity(x, y, z)[lung] > 0).all()
    assert (anatomy.mediastinum(x, y, z)[lung] < 0).all()
    assert (anatomy.above_diaphragm(x, y, z)[lung] > 0).all()


def test_lung_volume_is_human() -> None:
    """Both lungs together hold 2.5 to 9 litres."""
    for seed in range(5):
        anatomy = make_anatomy(seed)
        box = np.array([320.0, 240.0, 320.0])
        x, y, z = (np.random.default_rng(0).uniform(-0.5, 0.5, (40000, 3)) * box).T
        litres = (anatomy.lung(x, y, z + 140) > 0).mean() * box.prod() / 1e6
        assert 2.5 < litres < 9


def test_rounded_min_is_the_minimum_away_from_corners() -> None:
    """Only near a corner is it smaller, and never larger."""
    one, other = np.array([1.0, 30.0, 5.0]), np.array([30.0, 1.0, 5.0])
    rounded = rounded_min(one, other)
    assert rounded[:2].tolist() == [1.0, 1.0]
    assert rounded[2] < 5.0


def test_ribs_run_outside_the_lungs() -> None:
    """The centre line of a rib never enters a lung."""
    for seed in range(4):
        anatomy = make_anatomy(seed)
        bones, _ = rib_tubes(anatomy)
        assert (anatomy.lung_at(bones.start) < 1.5).mean() > 0.98


def test_vessels_taper_by_murrays_law_and_stay_inside() -> None:
    """Radii never grow towards the tips, and almost all of the tree lies in the lungs or at the hilum."""
    anatomy = make_anatomy(1)
    blood = draw_vessels(np.random.default_rng(0), anatomy).blood
    assert (blood.start_radius >= blood.end_radius - 1e-9).all()
    assert blood.end_radius.max() > 4 * blood.end_radius.min()
    assert (anatomy.lung_at(blood.end) > -8).mean() > 0.95
    starts = {tuple(point): radius for point, radius in zip(blood.end, blood.end_radius, strict=True)}
    daughters: dict[tuple[float, ...], list[float]] = {}
    for point, radius in zip(blood.start, blood.end_radius, strict=True):
        daughters.setdefault(tuple(point), []).append(radius)
    forks = [(starts[point], radii) for point, radii in daughters.items() if point in starts and len(radii) > 1]
    assert len(forks) > 100
    for mother, radii in forks:
        assert mother**MURRAY == pytest.approx(sum(radius**MURRAY for radius in radii))


def test_tumours_are_of_every_kind_and_in_range() -> None:
    """Diameters run from 3 to 60 mm, mostly 8 to 35, and no kind is missing."""
    tumours = [tumour for _, tumour in some_tumours()]
    diameters = np.array([tumour.diameter_mm for tumour in tumours])
    assert {tumour.kind for tumour in tumours} == set(TumourKind)
    assert diameters.min() >= 3
    assert diameters.max() <= 60
    assert ((diameters > 8) & (diameters < 35)).mean() > 0.6


def test_label_has_the_volume_of_the_diameter() -> None:
    """A tumour inside the lung has the volume of its sphere; one on a wall loses part of it."""
    for anatomy, tumour in some_tumours():
        reach = tumour.reach_mm() + 1.0
        axes = [np.arange(-reach, reach, 0.8) + centre for centre in tumour.centre]
        canvas = Canvas(
            hu=np.empty((0, 0, 0), dtype=np.float32),
            z_mm=axes[2],
            y_mm=axes[1].astype(np.float32),
            x_mm=axes[0].astype(np.float32),
        )
        label = np.zeros([len(axis) for axis in reversed(axes)], dtype=np.bool_)
        n_voxels = label_tumour(canvas, anatomy, tumour, label)
        assert n_voxels == label.sum()
        share = n_voxels * 0.8**3 / (np.pi / 6 * tumour.diameter_mm**3)
        attached = tumour.kind in (TumourKind.PLEURAL, TumourKind.MEDIASTINAL)
        assert (0.3 if attached else 0.82) < share < 1.12, (tumour.kind, tumour.diameter_mm)


def test_labelling_one_tumour_keeps_the_others() -> None:
    """Where the boxes of two tumours overlap, the second takes nothing away from the first."""
    anatomy, tumour = some_tumours()[0]
    canvas = make_canvas()
    around = Canvas(
        hu=canvas.hu,
        z_mm=canvas.z_mm + tumour.centre[2],
        y_mm=canvas.y_mm + np.float32(tumour.centre[1]),
        x_mm=canvas.x_mm + np.float32(tumour.centre[0]),
    )
    label = np.ones((40, 40, 40), dtype=np.bool_)
    assert 0 < label_tumour(around, anatomy, tumour, label) < label.size
    assert label.all()


def test_tumours_of_a_patient_do_not_touch() -> None:
    """Each is a lesion of its own."""
    for seed in range(14):
        anatomy = make_anatomy(seed)
        tumours = draw_tumours(np.random.default_rng(seed), anatomy, 0.0, 4)
        for n, one in enumerate(tumours):
            for other in tumours[n + 1 :]:
                assert np.linalg.norm(one.centre - other.centre) > one.reach_mm() + other.reach_mm()


def test_distractors_keep_clear_of_tumours() -> None:
    """A look-alike never overlaps a label."""
    count = 0
    for seed in range(14):
        anatomy = make_anatomy(seed)
        tumours = draw_tumours(np.random.default_rng(seed), anatomy, 0.0, 4)
        found = draw_distractors(np.random.default_rng(seed + 100), anatomy, tumours)
        places = [plate.centre for plate in found.plates]
        if found.granulomas.start_radius.max() > 0:
            places += list(found.granulomas.start)
        count += len(places)
        for tumour in tumours:
            assert all(np.linalg.norm(place - tumour.centre) > tumour.reach_mm() + 10 for place in places)
    assert count > 10


def test_texture_looks_the_same_at_another_resolution() -> None:
    """The field belongs to the millimetre, not to the pixel."""
    fine = ((np.arange(300) - 149.5) * 1.0).astype(np.float32)
    coarse = fine[::3]
    one = draw_texture(np.random.default_rng(0), fine, fine).at(12.0)
    other = draw_texture(np.random.default_rng(0), coarse, coarse).at(12.0)
    assert np.allclose(one[::3, ::3], other)


def test_texture_has_unit_variance_over_the_heights() -> None:
    """What is added to tissue has the strength that its factor says, and it changes along z."""
    side = (np.arange(100) * 3.0 - 150).astype(np.float32)
    texture = draw_texture(np.random.default_rng(0), side, side)
    heights = np.arange(0.0, 300.0, 10.0)
    assert np.mean([texture.at(z).var() for z in heights]) == pytest.approx(1.0, abs=0.15)
    assert np.mean([texture.coarse(z).var() for z in heights]) == pytest.approx(1.0, abs=0.15)
    assert not np.allclose(texture.at(0.0), texture.at(10.0), atol=0.5)


def make_acquisition(noise_hu: float = 20.0, kernel: int = 1) -> Acquisition:
    return Acquisition(
        kernel=KERNELS[kernel], field_of_view_mm=350.0, spacing_mm=2.0, noise_hu=noise_hu, kvp=120, tube_current_ma=100
    )


@pytest.mark.parametrize("kernel", [0, 1, 2])
def test_noise_has_the_strength_asked_for_and_is_correlated(kernel: int) -> None:
    """Its deviation is right on average over the image, and neighbours resemble each other."""
    flat = np.zeros((512, 512), dtype=np.float32)
    noise = acquire_slice(flat, make_acquisition(20.0, kernel), np.random.default_rng(0)).astype(float)
    assert noise.mean() == pytest.approx(0.0, abs=1.0)
    assert noise[206:306, 206:306].std() == pytest.approx(22.0, rel=0.1)
    assert noise[:60, :60].std() < noise[206:306, 206:306].std()
    neighbours = np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]
    assert neighbours > 0.2


def test_coarse_grids_have_less_noise() -> None:
    """A pixel that averages sixteen has less noise than one of them."""
    fine = acquire_slice(np.zeros((512, 512), dtype=np.float32), make_acquisition(), np.random.default_rng(0))
    coarse = acquire_slice(np.zeros((128, 128), dtype=np.float32), make_acquisition(), np.random.default_rng(0))
    assert 0.3 < coarse.std() / fine.std() < 0.8


def test_values_beyond_twelve_bits_are_clipped() -> None:
    """As a scanner does."""
    tissue = np.full((64, 64), 9000.0, dtype=np.float32)
    tissue[:32] = -9000.0
    image = acquire_slice(tissue, make_acquisition(), np.random.default_rng(0))
    assert image.min() == -1024
    assert image.max() == 3071
