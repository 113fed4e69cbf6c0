"""Model files: what is written comes back, and nothing else is accepted."""

import hashlib
import json
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_tensors

from vaeseg.canonical import as_json
from vaeseg.config import ArchitectureConfig, PreprocessingConfig
from vaeseg.errors import CheckpointError, ModelNotFoundError, StoreError
from vaeseg.models import files as model_files
from vaeseg.models.checkpoint import checkpoint_bytes, load_checkpoint, save_checkpoint
from vaeseg.models.files import model_path, resolve_model, shipped_models_dir
from vaeseg.models.provenance import Provenance
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder

ARCHITECTURE = ArchitectureConfig(kind="spatial", image_size=64, base_width=2, latent_channels=3)
PREPROCESSING = PreprocessingConfig(image_size=64, window_low_hu=-900.0, threshold=0.4)
PROVENANCE = Provenance(
    data_digest="d" * 64,
    split_digest="e" * 64,
    metrics={"test_iou": 0.5, "dev_iou": None},
    parent_digest="f" * 64,
    seen_tokens=("0" * 16, "1" * 16),
    commit="c" * 40,
    workers=3,
    computed_in="bfloat16",
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A good segmenter file."""
    path = tmp_path / "good.safetensors"
    save_checkpoint(path, Segmenter(ARCHITECTURE), PREPROCESSING, PROVENANCE)
    return path


def parts(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """State and metadata of a file, to write it again with something wrong and a content digest that fits."""
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return load_checkpoint(path).state, header["__metadata__"]


def refusal(path: Path) -> str:
    """The one sentence that loading is refused with."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert len(message) < 400
    return message


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    """Weights bit for bit, architecture, preprocessing, provenance, and the digest of the file's own bytes."""
    path = tmp_path / "deep" / "model.safetensors"
    model = Segmenter(ARCHITECTURE)
    digest = save_checkpoint(path, model, PREPROCESSING, PROVENANCE)
    checkpoint = load_checkpoint(path)
    assert digest == checkpoint.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (checkpoint.kind, checkpoint.architecture, checkpoint.preprocessing) == (
        "segmenter",
        ARCHITECTURE,
        PREPROCESSING,
    )
    assert checkpoint.metadata == PROVENANCE
    for name, weight in checkpoint.network().state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    """The digest identifies the model, so that saving it twice must not give two."""
    model = Segmenter(ARCHITECTURE)
    digests = {save_checkpoint(tmp_path / f"{n}.safetensors", model, PREPROCESSING, PROVENANCE) for n in range(5)}
    assert len(digests) == 1


def test_network_is_of_the_saved_kind_and_ready(tmp_path: Path) -> None:
    """A stage-one file gives an autoencoder, a stage-two file a segmenter, both in evaluation mode."""
    for network in (VariationalAutoencoder, Segmenter):
        path = tmp_path / f"{network.__name__}.safetensors"
        save_checkpoint(path, network(ARCHITECTURE), PREPROCESSING, PROVENANCE)
        loaded = load_checkpoint(path).network()
        assert type(loaded) is network
        assert not loaded.training


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path: Path) -> None:
    """Stored weights are rounded to float16, and computing goes on in float32; batch norm keeps its precision."""
    model = Segmenter(replace(ARCHITECTURE, base_width=16))
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    save_checkpoint(full, model, PREPROCESSING, PROVENANCE)
    save_checkpoint(half, model, PREPROCESSING, PROVENANCE, half=True)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    for name, weight in load_checkpoint(half).state.items():
        expected = model.state_dict()[name]
        assert weight.dtype == expected.dtype
        assert torch.equal(weight, expected.half().float() if expected.ndim > 1 else expected)


def test_image_sizes_must_agree(tmp_path: Path) -> None:
    """A network for 64 pixels is not saved with preprocessing for 128."""
    with pytest.raises(ValueError, match=r"128.*64"):
        save_checkpoint(
            tmp_path / "m.safetensors", Segmenter(ARCHITECTURE), PreprocessingConfig(image_size=128), PROVENANCE
        )


def test_a_failed_write_keeps_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fills up, the old model stays and no partial file is left."""
    before = saved.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"good.safetensors.*No space left"):
        save_checkpoint(saved, Segmenter(ARCHITECTURE), PREPROCESSING, PROVENANCE)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("cut", [0, 4, 100, 3000, -1])
def test_truncated_file_is_refused(saved: Path, cut: int) -> None:
    """A file that ends early is damaged, wherever it ends."""
    saved.write_bytes(saved.read_bytes()[:cut])
    assert "damaged" in refusal(saved)


def test_pickle_is_refused_without_being_loaded(tmp_path: Path) -> None:
    """A pickle that would run code on loading is refused, bare or inside a zip as torch writes it."""
    witness = tmp_path / "witness"

    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.mkdir, (str(witness),))

    bare, zipped = tmp_path / "bare.safetensors", tmp_path / "zipped.pt"
    bare.write_bytes(pickle.dumps(Attack()))
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Attack()))
    for path in (bare, zipped):
        assert "pickle" in refusal(path)
    assert not witness.exists()


def test_foreign_safetensors_is_refused(tmp_path: Path) -> None:
    """Somebody else's weights have no format version of ours."""
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(save_tensors({"weight": torch.zeros(3)}))
    assert "not written by vaeseg" in refusal(path)


@pytest.mark.parametrize("name", ["architecture", "preprocessing", "metrics", "data_digest", "seen_tokens", "commit"])
def test_missing_metadata_is_refused_by_name(saved: Path, name: str) -> None:
    """Each piece of metadata has to be there."""
    state, described = parts(saved)
    del described[name]
    saved.write_bytes(checkpoint_bytes(described, state))
    assert name in refusal(saved)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("format_version", "3", "newer"),
        ("kind", "pickle", "neither"),
        ("architecture", "[" * 100_000, "metadata"),
        ("architecture", "[]", "list"),
        ("architecture", '{"kind": "unet"}', "unet"),
        ("architecture", '{"base_width": true}', "True"),
        ("architecture", '{"base_width": 1000000000}', "4096"),
        ("architecture", '{"skip": 1}', "skip"),
        ("preprocessing", '{"threshold": NaN}', "nan"),
        ("preprocessing", '{"image_size": 128}', "128"),
        ("preprocessing", f'{{"window_low_hu": -{10**400}}}', "window_low_hu"),
        ("metrics", "{", "metadata"),
        ("metrics", '{"dev_iou_label": NaN}', "metrics"),
        ("metrics", '{"dev_iou_label": "very good"}', "metrics"),
        ("metrics", f'{{"dev_iou_label": {10**400}}}', "metrics"),
        ("seen_tokens", "{}", "seen_tokens"),
        ("workers", "0", "no number of workers"),
        ("workers", "two", "no number of workers"),
        ("workers", "9" * 5000, "no number of workers"),
        ("computed_in", "float8", "no number type"),
    ],
)
def test_impossible_metadata_is_refused(saved: Path, name: str, text: str, said: str) -> None:
    """Wrong values are refused in a sentence that names them."""
    state, described = parts(saved)
    saved.write_bytes(checkpoint_bytes({**described, name: text}, state))
    assert said in refusal(saved)


def test_a_changed_weight_is_refused(saved: Path) -> None:
    """One bit of one weight, anywhere, and the file is not what was written."""
    data = bytearray(saved.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    for position in (start, (start + len(data)) // 2, len(data) - 1):
        saved.write_bytes(bytes(data[:position]) + bytes([data[position] ^ 1]) + bytes(data[position + 1 :]))
        assert "content digest" in refusal(saved)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics", '{"test_iou": 0.9}'),
        ("preprocessing", as_json(replace(PREPROCESSING, threshold=0.1))),
        ("seen_tokens", "[]"),
        ("commit", ""),
        ("content_digest", "0" * 64),
        ("note", "an addition"),
    ],
)
def test_changed_metadata_is_refused(saved: Path, name: str, text: str) -> None:
    """Better figures, another threshold, forgotten subjects: each shows."""
    state, described = parts(saved)
    saved.write_bytes(save_tensors(state, {**described, name: text}))
    assert "content digest" in refusal(saved)


def test_a_file_without_content_digest_is_refused(saved: Path) -> None:
    """Leaving the proof out does not help."""
    state, described = parts(saved)
    del described["content_digest"]
    saved.write_bytes(save_tensors(state, described))
    assert "content digest" in refusal(saved)


def test_a_huge_header_takes_no_memory(saved: Path) -> None:
    """A header that claims more bytes than there are is damage."""
    for length in (2**63, 2**40, 2**27):
        saved.write_bytes(length.to_bytes(8, "little") + saved.read_bytes()[8:])
        assert "damaged" in refusal(saved)


def test_the_shipped_model_is_the_one_of_its_card() -> None:
    """It loads, and the card names its digest."""
    (shipped,) = shipped_models_dir().glob("*.safetensors")
    card = Path(__file__).parents[2] / f"docs/model-card-{shipped.stem}.md"
    assert load_checkpoint(shipped).digest in card.read_text(encoding="utf-8")


def test_weights_must_fit_the_architecture(saved: Path) -> None:
    """A wider network than the weights fill is refused, and no memory is taken for it."""
    state, described = parts(saved)
    wide = as_json(replace(ARCHITECTURE, base_width=512))
    saved.write_bytes(checkpoint_bytes({**described, "architecture": wide}, state))
    assert "expected (512" in refusal(saved)


def test_missing_or_foreign_weights_are_refused(saved: Path) -> None:
    """Exactly the network's weights: none less, none more."""
    state, described = parts(saved)
    less = {name: weight for name, weight in state.items() if name != "mean.bias"}
    saved.write_bytes(checkpoint_bytes(described, less))
    assert "lacks weight mean.bias" in refusal(saved)
    saved.write_bytes(checkpoint_bytes(described, {**state, "extra": torch.zeros(1)}))
    assert "foreign weight extra" in refusal(saved)


def test_weights_must_be_finite_numbers_of_the_right_kind(saved: Path) -> None:
    """NaN and integers are no weights."""
    state, described = parts(saved)
    saved.write_bytes(checkpoint_bytes(described, {**state, "mean.bias": torch.full((3,), float("nan"))}))
    assert "not finite" in refusal(saved)
    saved.write_bytes(checkpoint_bytes(described, {**state, "mean.bias": torch.zeros(3, dtype=torch.int32)}))
    assert "int32" in refusal(saved)


def test_a_negative_variance_is_refused(saved: Path) -> None:
    """Its root is no number; the network would find nothing, in anybody."""
    state, described = parts(saved)
    name = "encoder.0.1.running_var"
    saved.write_bytes(checkpoint_bytes(described, {**state, name: torch.full_like(state[name], -5)}))
    assert f"{name} with negative values" in refusal(saved)


def test_unreadable_and_oversized_files_are_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory, a missing file, and a file larger than any of ours."""
    assert "directory" in refusal(saved.parent).lower()
    assert "No such file" in refusal(saved.with_name("none.safetensors"))
    monkeypatch.setattr(model_files, "MAX_CHECKPOINT_BYTES", 10)
    assert "expected at most 10" in refusal(saved)


def test_model_is_found_by_name_in_the_store_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's model wins over a shipped one of the same name; a path is taken as it is."""
    shipped, store = tmp_path / "shipped", tmp_path / "store"
    for directory, names in ((shipped, ("a", "b")), (store, ("a",))):
        directory.mkdir()
        for name in names:
            (directory / f"{name}.safetensors").touch()
    monkeypatch.setattr(model_files, "shipped_models_dir", lambda: shipped)
    assert resolve_model("a", store) == store / "a.safetensors"
    assert resolve_model("b", store) == resolve_model("b", None) == shipped / "b.safetensors"
    path = str(shipped / "a.safetensors")
    assert resolve_model(path, store) == Path(path)


def test_unknown_model_lists_those_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names what there is; half-written files are not models; names do not lead out of the directory."""
    (tmp_path / "seen.safetensors").touch()
    (tmp_path / ".seen.safetensors.x1").touch()
    monkeypatch.setattr(model_files, "shipped_models_dir", lambda: tmp_path)
    for name in ("unseen", "../seen", "", str(tmp_path)):
        with pytest.raises(ModelNotFoundError, match="known are seen;"):
            resolve_model(name, tmp_path / "nowhere" / "models")


def test_model_names_are_plain(tmp_path: Path) -> None:
    """A name cannot lead out of the store."""
    assert model_path(tmp_path, "lung-v1.2") == tmp_path / "lung-v1.2.safetensors"
    for name in ("../x", "a/b", "", ".hidden"):
        with pytest.raises(ValueError, match="no model name"):
            model_path(tmp_path, name)
