"""From slices to masks: repeatable, and by the checkpoint's own preprocessing."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vaeseg.config import ArchitectureConfig, PreprocessingConfig
from vaeseg.errors import CheckpointError, ReadingError, UsageError
from vaeseg.inference.predictor import CPU_CHUNK, Predictor, choose_device
from vaeseg.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vaeseg.models.provenance import Provenance
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder

ARCHITECTURE = ArchitectureConfig(kind="spatial", image_size=64, base_width=4, latent_channels=3)
PREPROCESSING = PreprocessingConfig(image_size=64)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A segmenter with random weights that calls about half of all pixels tumour."""
    torch.manual_seed(0)
    model = Segmenter(ARCHITECTURE).eval()
    last = model.decoder[-1]
    assert isinstance(last, torch.nn.Conv2d)
    assert last.bias is not None
    with torch.no_grad():
        last.bias -= model(torch.rand(4, 1, 64, 64))[0].median()
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_checkpoint(path, model, PREPROCESSING, Provenance(data_digest="", split_digest=""))
    return load_checkpoint(path)


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    """(11, 64, 64) HU, a number of slices that fills no pass evenly."""
    return np.random.default_rng(0).integers(-1024, 500, (11, 64, 64)).astype(np.int16)


def with_preprocessing(checkpoint: Checkpoint, **changes: object) -> Checkpoint:
    return replace(checkpoint, preprocessing=replace(checkpoint.preprocessing, **changes))  # type: ignore[arg-type]


def test_mask_is_the_thresholded_network(checkpoint: Checkpoint, volume: np.ndarray) -> None:
    """The probabilities are those of the network on intensity (HU + 1000) / 1400 clipped to [0, 1]."""
    predictor = Predictor(checkpoint, "cpu", precision="fp32")
    intensity = np.clip((volume.astype(np.float32) + 1000) / 1400, 0, 1)
    with torch.no_grad():
        model = checkpoint.network()
        assert isinstance(model, Segmenter)
        expected = model.probability(torch.from_numpy(intensity)[:, None])[:, 0].numpy()
    probabilities = predictor.probabilities(volume)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    mask = predictor.segment(volume)
    assert mask.dtype == np.bool_
    assert np.array_equal(mask, probabilities >= 0.5)
    assert 0.05 < mask.mean() < 0.95


def test_same_input_same_mask_however_it_is_batched(checkpoint: Checkpoint, volume: np.ndarray) -> None:
    """Bit for bit the same probabilities alone, in any part of a volume, and with every batch size of a full pass."""
    predictor = Predictor(checkpoint, "cpu")
    whole = predictor.probabilities(volume)
    assert np.array_equal(whole, predictor.probabilities(volume))
    for start, stop in ((0, 1), (3, 4), (2, 9), (5, 11)):
        assert np.array_equal(whole[start:stop], predictor.probabilities(volume[start:stop]))
    for batch_size in (CPU_CHUNK, 32):
        assert np.array_equal(whole, Predictor(checkpoint, "cpu", batch_size).probabilities(volume))


def test_threshold_and_window_come_from_the_checkpoint(checkpoint: Checkpoint, volume: np.ndarray) -> None:
    """Another threshold gives the mask at that threshold; another window gives other probabilities."""
    probabilities = Predictor(checkpoint, "cpu").probabilities(volume)
    strict = Predictor(with_preprocessing(checkpoint, threshold=0.6), "cpu")
    assert np.array_equal(strict.segment(volume), probabilities >= 0.6)
    narrow = Predictor(with_preprocessing(checkpoint, window_high_hu=-500.0), "cpu")
    assert not np.array_equal(narrow.probabilities(volume), probabilities)


def test_minmax_sees_the_whole_volume(checkpoint: Checkpoint, volume: np.ndarray) -> None:
    """One bright voxel in another slice changes the intensity of all, and a volume of one value is no error."""
    predictor = Predictor(with_preprocessing(checkpoint, intensity="minmax"), "cpu")
    brighter = volume.copy()
    brighter[10, 0, 0] = 3000
    assert not np.array_equal(predictor.probabilities(volume)[0], predictor.probabilities(brighter)[0])
    assert np.isfinite(predictor.probabilities(np.full((2, 64, 64), 7, dtype=np.int16))).all()


def test_chosen_slices_are_those_of_the_whole_volume(checkpoint: Checkpoint, volume: np.ndarray) -> None:
    """Bit for bit, though the range that decides the intensity lies in slices that are not chosen."""
    predictor = Predictor(with_preprocessing(checkpoint, intensity="minmax"), "cpu")
    volume[10, 0, 0] = 3000
    chosen = np.array([7, 2])
    assert np.array_equal(predictor.probabilities(volume, chosen), predictor.probabilities(volume)[chosen])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_intensities_are_fractions_of_their_type_s_range(checkpoint: Checkpoint, dtype: type) -> None:
    """HU -1000 to 400 in steps of 1/255 of the window give what the finished intensities give."""
    steps = np.random.default_rng(0).integers(0, 256, (3, 64, 64))
    predictor = Predictor(with_preprocessing(checkpoint, window_low_hu=0.0, window_high_hu=255.0), "cpu")
    expected = predictor.probabilities(steps.astype(np.int16))
    images = (steps * (np.iinfo(dtype).max // 255)).astype(dtype)
    np.testing.assert_allclose(predictor.probabilities_of_intensity(images), expected, atol=1e-6)


def test_intensities_of_another_type_are_refused(checkpoint: Checkpoint, volume: np.ndarray) -> None:
    """HU given for intensities would be nonsense without an error."""
    with pytest.raises(ValueError, match="int16, expected uint8 or uint16"):
        Predictor(checkpoint, "cpu").probabilities_of_intensity(volume)  # type: ignore[arg-type]


def test_no_slices_give_no_mask(checkpoint: Checkpoint) -> None:
    """An empty volume gives an empty mask."""
    assert Predictor(checkpoint, "cpu").segment(np.empty((0, 64, 64), dtype=np.int16)).shape == (0, 64, 64)


def test_wrong_shape_is_refused(checkpoint: Checkpoint) -> None:
    """Slices of another size than the model's are a mistake of the caller."""
    with pytest.raises(ValueError, match=r"\(2, 32, 32\).*\(K, 64, 64\)"):
        Predictor(checkpoint, "cpu").segment(np.zeros((2, 32, 32), dtype=np.int16))


def test_autoencoder_is_no_segmenter(tmp_path: Path) -> None:
    """A stage-one model is refused instead of showing images as tumours."""
    path = tmp_path / "vae.safetensors"
    save_checkpoint(
        path, VariationalAutoencoder(ARCHITECTURE), PREPROCESSING, Provenance(data_digest="", split_digest="")
    )
    with pytest.raises(CheckpointError, match="stage-one"):
        Predictor(load_checkpoint(path), "cpu")


def test_batch_size_is_positive(checkpoint: Checkpoint) -> None:
    """A batch of nothing is refused."""
    with pytest.raises(ValueError, match="batch_size is 0"):
        Predictor(checkpoint, "cpu", batch_size=0)


def test_masks_and_the_process_know_nothing_of_threads(checkpoint: Checkpoint, volume: np.ndarray) -> None:
    """As many passes at a time as asked for, each in one thread; the rest of the process keeps its own number."""
    torch.set_num_threads(2)
    seen: list[int] = []
    one, three = Predictor(checkpoint, "cpu", num_threads=1), Predictor(checkpoint, "cpu", num_threads=3)
    three.engine.network.encoder.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    assert np.array_equal(one.probabilities(volume), three.probabilities(volume))
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2
    for fresh in range(2):  # threads that come later take what the process has
        thread = ThreadPoolExecutor(1).submit(torch.get_num_threads)
        assert thread.result() == 2, fresh


def test_passes_at_a_time_are_no_more_than_cores(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the process may use, of which torch knows nothing; whoever asks for a number gets it."""
    torch.set_num_threads(2)
    monkeypatch.setattr("vaeseg.inference.predictor.usable_cores", lambda: 1)
    assert Predictor(checkpoint, "cpu")._lanes._max_workers == 1
    assert Predictor(checkpoint, "cpu", num_threads=3)._lanes._max_workers == 3


def test_what_goes_wrong_in_a_pass_is_raised(checkpoint: Checkpoint, volume: np.ndarray) -> None:
    """And not left in its thread, with a mask half made."""
    predictor = Predictor(checkpoint, "cpu", num_threads=2)
    predictor.engine.network.decoder[-1] = torch.nn.Conv2d(1, 1, 1)
    with pytest.raises(RuntimeError):
        predictor.segment(volume)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_make_no_mask(checkpoint: Checkpoint, volume: np.ndarray, value: float) -> None:
    """A comparison with NaN would be False, and a mask of nothing; slices that only fill up a pass do not count."""
    predictor = Predictor(checkpoint, "cpu")
    images = np.full((11, 64, 64), 128, dtype=np.uint8)
    masks = predictor.segment(volume[:3])

    def spoil_the_last(_: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        logits[CPU_CHUNK - 1, 0, 5, 5] = value
        return logits

    predictor.engine.network.decoder.register_forward_hook(spoil_the_last)
    for compute, slices in (
        (predictor.segment, volume),
        (predictor.probabilities, volume),
        (predictor.probabilities_of_intensity, images),
    ):
        with pytest.raises(ReadingError, match="model_output_not_finite: the model's values for slices 0 to 3"):
            compute(slices)
    assert np.array_equal(predictor.segment(volume[:3]), masks)


def test_cuda_is_taken_where_it_is_and_refused_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` follows the machine; asking for CUDA without any is a usage error."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == choose_device("cpu").type == "cpu"
    with pytest.raises(UsageError, match="no CUDA device"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == choose_device("cuda").type == "cuda"


def test_each_slice_has_its_own_range(checkpoint: Checkpoint, volume: np.ndarray) -> None:
    """With the intensity of `slice`, a slice is what it would be alone, in every pass and among chosen ones."""
    predictor = Predictor(with_preprocessing(checkpoint, intensity="slice"), "cpu")
    uneven = (volume // np.arange(1, 12)[:, None, None]).astype(np.int16)
    alone = np.concatenate([predictor.probabilities(uneven[k : k + 1]) for k in range(11)])
    np.testing.assert_array_equal(predictor.probabilities(uneven), alone)
    np.testing.assert_array_equal(predictor.probabilities(uneven, np.array([9, 2])), alone[[9, 2]])
