"""ONNX: equal to torch, the model file comes back byte for byte, and nothing else is accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from vaeseg.config import ArchitectureConfig, PreprocessingConfig
from vaeseg.errors import CheckpointError, UsageError
from vaeseg.models import onnx as onnx_module
from vaeseg.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vaeseg.models.onnx import OnnxModel, from_onnx, to_onnx
from vaeseg.models.provenance import Provenance
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder

SPATIAL = ArchitectureConfig(kind="spatial", image_size=64, base_width=2, latent_channels=3)
PAPER = ArchitectureConfig(image_size=64, base_width=2, latent_channels=5)
PROVENANCE = Provenance(data_digest="d" * 64, split_digest="e" * 64, seen_tokens=("0" * 16,))


def trained(network: VariationalAutoencoder) -> VariationalAutoencoder:
    """With batch norm that has seen images, so that folding it or leaving it out would show."""
    with torch.no_grad():
        network.train()(torch.rand(4, 1, 64, 64))
    return network.eval()


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, OnnxModel]]:
    """A model file in half precision, and its ONNX; exported once, since that takes seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "half.safetensors"
    save_checkpoint(path, trained(Segmenter(SPATIAL)), PreprocessingConfig(image_size=64), PROVENANCE, half=True)
    yield path, to_onnx("half", load_checkpoint(path))
    torch.set_num_threads(threads)


def changed(data: bytes, change: Callable[[Any], object]) -> bytes:
    model = onnx.ModelProto.FromString(data)
    change(model)
    written: bytes = model.SerializeToString()
    return written


def refusal(data: bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        from_onnx("x.onnx", data)
    message = str(caught.value)
    assert "x.onnx" in message
    assert len(message) < 300
    return message


def test_the_model_file_comes_back_byte_for_byte(segmenter: tuple[Path, OnnxModel]) -> None:
    """Half precision, weights that the graph does not use, and all metadata."""
    path, exported = segmenter
    assert from_onnx("x.onnx", exported.data) == path.read_bytes()


def test_the_graph_gives_torchs_probabilities_for_any_batch(segmenter: tuple[Path, OnnxModel]) -> None:
    """Compared here by hand, beside the comparison that the export made."""
    runtime = pytest.importorskip("onnxruntime")
    path, exported = segmenter
    assert 0 <= exported.max_difference <= 1e-4
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(exported.data, options)
    network = load_checkpoint(path).network()
    assert isinstance(network, Segmenter)
    for batch in (1, 5):
        images = torch.rand(batch, 1, 64, 64)
        (found,) = session.run(["probability"], {"intensity": images.numpy()})
        with torch.inference_mode():
            wanted = network.probability(images)
        assert wanted.std() > 1e-4
        torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-5, rtol=0)


def test_a_paper_autoencoder_gives_reconstruction_and_posterior(tmp_path: Path) -> None:
    """Three outputs, a vector latent, single precision."""
    path = tmp_path / "vae.safetensors"
    save_checkpoint(path, trained(VariationalAutoencoder(PAPER)), PreprocessingConfig(image_size=64), PROVENANCE)
    exported = to_onnx("vae", load_checkpoint(path))
    outputs = onnx.ModelProto.FromString(exported.data).graph.output
    assert [output.name for output in outputs] == ["reconstruction", "mean", "logvar"]
    assert [dim.dim_value for dim in outputs[1].type.tensor_type.shape.dim][1:] == [5, 1, 1]
    assert from_onnx("x.onnx", exported.data) == path.read_bytes()


def test_nothing_of_this_machine_is_in_the_file(segmenter: tuple[Path, OnnxModel]) -> None:
    """The exporter's notes hold paths of source files; ours hold none."""
    data = segmenter[1].data
    assert str(Path(__file__).parents[2]).encode() not in data
    assert b".py" not in data


def test_other_values_than_torchs_are_refused(
    segmenter: tuple[Path, OnnxModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The export compares what the graph computes, and says by how much it is off."""
    path, exported = segmenter
    network = load_checkpoint(path).network()
    with torch.no_grad():
        network.mean.bias += 1.0
    runtime = pytest.importorskip("onnxruntime")
    with pytest.raises(CheckpointError, match=r"other values.*difference"):
        onnx_module._compared("half", runtime, exported.data, onnx_module._Probability(network), 64)


def _flip_weight(model: Any) -> None:
    weight = next(one for one in model.graph.initializer if one.name == "mean.weight")
    weight.raw_data = b"\x00\x00\x80\x3f" + weight.raw_data[4:]


def _round_off(model: Any) -> None:
    """A change too small for half precision to show."""
    weight = next(one for one in model.graph.initializer if one.name == "mean.weight")
    weight.raw_data = bytes([weight.raw_data[0] ^ 1]) + weight.raw_data[1:]


def _better_figures(model: Any) -> None:
    next(prop for prop in model.metadata_props if prop.key == "vaeseg.metrics").value = '{"dev_iou_label": 0.9}'


def _outside(model: Any) -> None:
    weight = model.graph.initializer[0]
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../../etc/passwd")


def _huge(model: Any) -> None:
    model.graph.initializer[0].dims[:] = [2**40, 2**20]


def _negative(model: Any) -> None:
    model.graph.initializer[0].dims[:] = [-1, -18, 1, 1]


def _missing(model: Any) -> None:
    del model.graph.initializer[3]


def _twice(model: Any) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _foreign(model: Any) -> None:
    model.graph.initializer[0].name = "__metadata__"


def _nameless(model: Any) -> None:
    del model.metadata_props[:]


def _types(model: Any) -> None:
    next(prop for prop in model.metadata_props if prop.key == "vaeseg.stored_types").value = '{"mean.weight": []}'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_flip_weight, "content digest"),
        (_round_off, "changed after it was exported"),
        (_better_figures, "content digest"),
        (_outside, "another file"),
        (_huge, "which its shape or type denies"),
        (_negative, "which its shape or type denies"),
        (_missing, "lacks weight"),
        (_twice, "foreign weight"),
        (_foreign, "foreign weight"),
        (_nameless, "vaeseg did not write"),
        (_types, "stored_types"),
    ],
)
def test_changed_and_hostile_files_are_refused(
    segmenter: tuple[Path, OnnxModel], change: Callable[[Any], object], said: str
) -> None:
    """Each with its reason, and no file but this one is opened."""
    message = refusal(changed(segmenter[1].data, change))
    assert said in message


@pytest.mark.parametrize("data", [b"", b"\x80\x04junk", b"PK\x03\x04", b"\xff" * 100])
def test_what_is_no_onnx_is_refused(data: bytes) -> None:
    """Empty files, pickles, zips and noise."""
    assert "ONNX" in refusal(data)


def test_without_the_extra_it_says_what_to_install(
    segmenter: tuple[Path, OnnxModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line with the command, in both directions."""

    def absent(module: str) -> Any:
        raise ImportError(module)

    path, exported = segmenter
    checkpoint: Checkpoint = load_checkpoint(path)
    monkeypatch.setattr(onnx_module.importlib, "import_module", absent)
    for act in (lambda: to_onnx("m", checkpoint), lambda: from_onnx("m", exported.data)):
        with pytest.raises(UsageError, match=r"pip install 'vaeseg\[onnx\]'"):
            act()
