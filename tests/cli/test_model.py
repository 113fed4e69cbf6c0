"""`vaeseg-batch model` as a user calls it, with tiny networks of random weights."""

from __future__ import annotations

import importlib
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from vaeseg.canonical import as_json
from vaeseg.cli import main
from vaeseg.config import ArchitectureConfig, PreprocessingConfig, TrainingConfig
from vaeseg.errors import CheckpointError
from vaeseg.models import files as model_files
from vaeseg.models.checkpoint import checkpoint_bytes, load_checkpoint, save_checkpoint
from vaeseg.models.provenance import UNKNOWN_TOKEN, Provenance
from vaeseg.models.registry import halved
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder

ARCHITECTURE = ArchitectureConfig(kind="spatial", image_size=64, base_width=2, latent_channels=3)
PREPROCESSING = PreprocessingConfig(image_size=64)
N_PARAMETERS = sum(weight.numel() for weight in Segmenter(ARCHITECTURE).parameters())


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that comes with no model."""
    directory = tmp_path / "shipped"
    directory.mkdir()
    monkeypatch.setattr(model_files, "shipped_models_dir", lambda: directory)
    return directory


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """With a segmenter `lung` that started from an autoencoder `stage-one`."""
    models = tmp_path / "store" / "models"
    parent = save_checkpoint(
        models / "stage-one.safetensors",
        VariationalAutoencoder(ARCHITECTURE),
        PREPROCESSING,
        Provenance(data_digest="d" * 64, split_digest="e" * 64, metrics={"dev_loss": 0.25}),
    )
    provenance = Provenance(
        data_digest="d" * 64,
        split_digest="e" * 64,
        metrics={"dev_iou_label": 0.5, "test_iou_label": None},
        training=as_json(TrainingConfig(seed=41)),
        parent_digest=parent,
        commit="c" * 40,
        computed_in="bfloat16",
        seen_tokens=("1" * 16, "2" * 16),
    )
    save_checkpoint(models / "lung.safetensors", Segmenter(ARCHITECTURE), PREPROCESSING, provenance)
    return tmp_path / "store"


def run(store: Path, command: str, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["model", command, *map(str, arguments), "--store", str(store)])


def lung(store: Path) -> Path:
    return store / "models" / "lung.safetensors"


def described(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header["__metadata__"])


def as_version_1(path: Path, target: Path) -> None:
    """The same model as an older vaeseg wrote it."""
    words = {**described(path), "format_version": "1"}
    for name in ("content_digest", "seen_tokens", "commit", "computed_in"):
        del words[name]
    target.write_bytes(save_tensors(load_tensors(path.read_bytes()), words))


def test_list_names_every_model_with_its_parent(store: Path) -> None:
    """Store and package, as JSON and as a table."""
    result = run(store, "list", "--json")
    assert result.exit_code == 0
    first, second = json.loads(result.stdout)
    assert (first["name"], first["kind"], first["where"], first["parent"]) == (
        "lung",
        "segmenter",
        "store",
        "stage-one",
    )
    assert (second["name"], second["kind"], second["parent"]) == ("stage-one", "vae", None)
    assert first["n_parameters"] == N_PARAMETERS
    table = run(store, "list").stdout
    assert "dev_iou_label 0.5000" in table
    assert "spatial 64, base 2, latent 3x8x8" in table
    assert first["digest"][:16] in table


def test_an_empty_store_lists_what_is_shipped(store: Path, shipped: Path, tmp_path: Path) -> None:
    """A store that does not exist is no error, and is not made."""
    lung(store).rename(shipped / "given.safetensors")
    (only,) = json.loads(run(tmp_path / "nowhere", "list", "--json").stdout)
    assert (only["name"], only["where"]) == ("given", "shipped")
    assert not (tmp_path / "nowhere").exists()


def test_damaged_models_are_listed_with_their_reason(store: Path) -> None:
    """Exit code 3, and the others are listed all the same; a link to nowhere is damage too."""
    (store / "models" / "cut.safetensors").write_bytes(lung(store).read_bytes()[:-1])
    (store / "models" / "gone.safetensors").symlink_to("nowhere")
    (store / "models" / "null.safetensors").write_bytes(_null(lung(store)))
    result = run(store, "list", "--json")
    assert result.exit_code == 3
    listed = {model["name"]: model["problem"] for model in json.loads(result.stdout)}
    assert "damaged" in listed["cut"]
    assert "damaged" in listed["null"]
    assert "No such file" in listed["gone"]
    assert listed["lung"] is None
    assert "damaged" in run(store, "list").stdout


def test_show_says_everything(store: Path) -> None:
    """By name and by path; ancestors, settings, and how many numbers the latent holds."""
    shown = json.loads(run(store, "show", "lung", "--json").stdout)
    assert shown["latent"] == {"shape": [3, 8, 8], "numbers": 192, "input_numbers": 4096}
    assert shown["training"]["seed"] == 41
    assert shown["metrics"] == {"dev_iou_label": 0.5, "test_iou_label": None}
    assert (shown["commit"], shown["seen_tokens"], shown["precision"]) == ("c" * 40, 2, "single")
    assert shown["computed_in"] == "bfloat16"
    assert [parent["name"] for parent in shown["ancestors"]] == ["stage-one"]
    assert shown["content_digest"] == described(lung(store))["content_digest"]
    assert json.loads(run(store, "show", lung(store), "--json").stdout) == shown
    assert shown["digest"] in run(store, "show", "lung").stdout


def test_unknown_ancestors_have_a_digest_and_no_name(store: Path) -> None:
    """Where the parent is not at hand, the chain ends there."""
    (store / "models" / "stage-one.safetensors").unlink()
    (parent,) = json.loads(run(store, "show", "lung", "--json").stdout)["ancestors"]
    assert parent["name"] is None
    assert len(parent["digest"]) == 64


def test_import_puts_the_same_bytes_into_a_new_store(store: Path, tmp_path: Path) -> None:
    """Once; the second time there is nothing to do."""
    other = tmp_path / "other"
    assert run(other, "import", lung(store), "--name", "mine").stdout.startswith("imported mine")
    assert (other / "models" / "mine.safetensors").read_bytes() == lung(store).read_bytes()
    again = run(other, "import", lung(store), "--name", "mine")
    assert (again.exit_code, again.stdout.split()[0]) == (0, "unchanged")


def test_import_does_not_replace_another_model_unasked(store: Path) -> None:
    """Nor does a name lead out of the store; --force replaces."""
    source = store / "models" / "stage-one.safetensors"
    before = lung(store).read_bytes()
    refused = run(store, "import", source, "--name", "lung")
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert lung(store).read_bytes() == before
    assert run(store, "import", source, "--name", "../out").exit_code == 2
    assert run(store, "import", store / "none.safetensors", "--name", "new").exit_code == 2
    assert run(store, "import", source, "--name", "lung", "--force").stdout.startswith("replaced")
    assert lung(store).read_bytes() == source.read_bytes()


def test_a_shipped_name_is_not_taken_unasked(store: Path, shipped: Path) -> None:
    """A model of the store goes before a shipped one of the same name, so this would replace it."""
    (store / "models" / "stage-one.safetensors").rename(shipped / "given.safetensors")
    assert run(store, "import", lung(store), "--name", "given").exit_code == 2


def test_files_of_an_older_version_are_brought_up_by_import(store: Path, tmp_path: Path) -> None:
    """Using one says how; importing one keeps weights and figures, and records no subjects as seen."""
    old = tmp_path / "old.safetensors"
    as_version_1(lung(store), old)
    refused = run(store, "show", old)
    assert refused.exit_code == 1
    assert "model import" in refused.stderr
    assert run(store, "import", old, "--name", "new").exit_code == 0
    new, same = load_checkpoint(store / "models" / "new.safetensors"), load_checkpoint(lung(store))
    assert new.metadata.metrics == same.metadata.metrics
    assert new.metadata.seen_tokens == ()
    assert all(torch.equal(new.state[name], same.state[name]) for name in same.state)


@pytest.mark.parametrize("kept", ["content_digest", "seen_tokens", "commit", "computed_in"])
def test_what_only_calls_itself_an_older_version_is_refused(store: Path, tmp_path: Path, kept: str) -> None:
    """A changed file would get a digest that fits, and forget whom it has seen."""
    as_version_1(lung(store), old := tmp_path / "old.safetensors")
    words = {**described(old), kept: described(lung(store))[kept]}
    old.write_bytes(save_tensors(load_tensors(old.read_bytes()), words))
    refused = run(store, "import", old, "--name", "new")
    assert refused.exit_code == 1
    assert f"holds {kept}, which came later" in refused.stderr
    assert not (store / "models" / "new.safetensors").exists()


def test_a_name_leaves_room_for_its_suffix(store: Path) -> None:
    """The longest name makes a file name of 255 bytes; one letter more is wrong usage, and no such model."""
    assert run(store, "import", lung(store), "--name", "a" * 243).exit_code == 0
    assert run(store, "show", "a" * 243).exit_code == 0
    refused = run(store, "import", lung(store), "--name", "a" * 244)
    assert refused.exit_code == 2
    assert "at most 243" in refused.stderr
    assert run(store, "show", "a" * 300).exit_code == 2


def test_a_card_takes_no_place_of_a_pipe(store: Path, tmp_path: Path) -> None:
    """Nor of a device: root may rename over those, and then they are files."""
    os.mkfifo(tmp_path / "pipe")
    refused = run(store, "card", "lung", "--out", tmp_path / "pipe")
    assert refused.exit_code == 1
    assert "pipe cannot be written: it is a" in refused.stderr
    assert (tmp_path / "pipe").is_fifo()


def _flipped(path: Path) -> bytes:
    return path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])


def _edited(path: Path) -> bytes:
    return save_tensors(load_tensors(path.read_bytes()), {**described(path), "metrics": '{"dev_iou_label": 0.99}'})


def _misshapen(path: Path) -> bytes:
    tensors = load_tensors(path.read_bytes())
    return checkpoint_bytes(described(path), {**tensors, "mean.bias": torch.zeros(4)})


def _incomplete(path: Path) -> bytes:
    tensors = load_tensors(path.read_bytes())
    del tensors["mean.bias"]
    return checkpoint_bytes(described(path), tensors)


def _wordless(path: Path) -> bytes:
    words = described(path)
    del words["architecture"]
    return checkpoint_bytes(words, load_tensors(path.read_bytes()))


def _null(path: Path) -> bytes:
    """Its metadata is null, which the library takes for none."""
    header = json.dumps({"__metadata__": None}).encode()
    return len(header).to_bytes(8, "little") + header


def _pickled(path: Path) -> bytes:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.mkdir, (str(path.with_name("witness")),))

    return pickle.dumps(Attack())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_flipped, "content digest"),
        (_edited, "content digest"),
        (_misshapen, "expected (3,)"),
        (_incomplete, "lacks weight mean.bias"),
        (_wordless, "lacks its architecture"),
        (_pickled, "pickle"),
        (_null, "damaged"),
        (lambda path: path.read_bytes()[:1000], "damaged"),
        (lambda path: (2**60).to_bytes(8, "little") + path.read_bytes()[8:], "damaged"),
    ],
)
def test_bad_files_are_refused_by_every_command(store: Path, tmp_path: Path, spoil: Any, said: str) -> None:
    """One line with the reason, exit code 1, and nothing is written."""
    bad, out = tmp_path / "bad.safetensors", tmp_path / "out.safetensors"
    bad.write_bytes(spoil(lung(store)))
    for arguments in (
        ("show", bad),
        ("card", bad),
        ("import", bad, "--name", "bad"),
        ("export", bad, "--out", out),
    ):
        result = run(store, *arguments)  # type: ignore[arg-type]
        assert result.exit_code == 1, arguments
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
    assert not out.exists()
    assert not (tmp_path / "witness").exists()
    assert sorted(path.stem for path in (store / "models").iterdir()) == ["lung", "stage-one"]


def test_export_gives_the_file_and_half_of_it(store: Path, tmp_path: Path) -> None:
    """The same bytes; with --half rounded weights, the same metadata, another digest."""
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    assert run(store, "export", "lung", "--out", whole).exit_code == 0
    assert whole.read_bytes() == lung(store).read_bytes()
    assert run(store, "export", "lung", "--out", half, "--half").exit_code == 0
    one, other = load_checkpoint(whole), load_checkpoint(half)
    assert half.stat().st_size < whole.stat().st_size
    assert one.metadata == other.metadata
    assert one.described["content_digest"] != other.described["content_digest"]
    assert torch.equal(other.state["mean.weight"], one.state["mean.weight"].half().float())


def test_a_weight_that_half_precision_cannot_hold_is_not_exported(store: Path) -> None:
    """It would become infinite, and the file could not be read again."""
    checkpoint = load_checkpoint(lung(store))
    large = replace(checkpoint, state=checkpoint.state | {"mean.weight": checkpoint.state["mean.weight"] * 0 + 1e5})
    with pytest.raises(CheckpointError, match=r"mean\.weight does not fit into half precision"):
        halved(large)


def test_export_wants_a_fitting_suffix(store: Path, tmp_path: Path) -> None:
    """So that import knows what it reads; half precision is for model files."""
    assert run(store, "export", "lung", "--out", tmp_path / "x.onnx").exit_code == 2
    assert run(store, "export", "lung", "--format", "onnx", "--out", tmp_path / "x.pt").exit_code == 2
    assert run(store, "export", "lung", "--format", "onnx", "--half", "--out", tmp_path / "x.onnx").exit_code == 2


def test_onnx_and_back(store: Path, tmp_path: Path) -> None:
    """The figure is printed, and the model file comes back as it was."""
    out = tmp_path / "lung.onnx"
    exported = run(store, "export", "lung", "--format", "onnx", "--out", out)
    assert exported.exit_code == 0, exported.output
    assert float(exported.stdout.split()[-1]) <= 1e-4
    assert run(tmp_path / "other", "import", out, "--name", "back").exit_code == 0
    assert (tmp_path / "other/models/back.safetensors").read_bytes() == lung(store).read_bytes()


def test_without_the_extra_onnx_says_what_to_install(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 and one line."""
    found = importlib.import_module

    def without(name: str, package: str | None = None) -> Any:
        if name.startswith("onnx"):
            raise ImportError(name)
        return found(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    result = run(store, "export", "lung", "--format", "onnx", "--out", tmp_path / "x.onnx")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "pip install 'vaeseg[onnx]'" in result.stderr


def test_a_card_says_what_the_record_says(store: Path, tmp_path: Path) -> None:
    """Digests, settings, figures, preprocessing, ancestors, the notice; to stdout or a file."""
    card = run(store, "card", "lung").stdout
    for said in (
        "not for clinical use",
        "d" * 64,
        "e" * 64,
        "| seed | 41 |",
        "dev_iou_label",
        "window_low_hu",
        "c" * 40,
        "| computed in | bfloat16 |",
    ):
        assert said in card
    assert "(stage-one)" in card
    assert "| test_iou_label | undefined |" in card
    assert run(store, "card", "lung", "--out", tmp_path / "card.md").exit_code == 0
    assert (tmp_path / "card.md").read_text() == card


def test_a_card_says_what_a_model_before_took_away(store: Path) -> None:
    """Test figures of subjects that it had seen, and the knowledge of all who were seen."""
    metadata = load_checkpoint(lung(store)).metadata
    for figure, said, tokens, limit in (
        (0.5, "`test_` did not.", ("1" * 16,), None),
        (
            None,
            "`test_` is undefined, since the model",
            (UNKNOWN_TOKEN, "1" * 16),
            "Whom the models before it have seen",
        ),
    ):
        provenance = replace(metadata, metrics={"dev_loss": 0.5, "test_loss": figure}, seen_tokens=tokens)
        save_checkpoint(lung(store), Segmenter(ARCHITECTURE), PREPROCESSING, provenance)
        card = run(store, "card", "lung").stdout
        assert said in card
        assert "known by 1 tokens" in card
        assert ("seen is not recorded" in card) == (limit is not None)
        assert (limit or "") in card


def test_a_card_invents_nothing_and_nothing_breaks_out_of_it(store: Path, tmp_path: Path) -> None:
    """Fields that are empty are said to be unknown; hostile text stays in its cell."""
    path = tmp_path / "bare.safetensors"
    provenance = Provenance(data_digest="", split_digest="", training='{"a|b\\n# x": "\\u001b[2J<script>"}')
    save_checkpoint(path, Segmenter(ARCHITECTURE), PREPROCESSING, provenance)
    card = run(store, "card", path).stdout
    assert "| data digest | not recorded |" in card
    assert "| commit | not recorded |" in card
    assert "Figures: not recorded." in card
    assert "Whom it has seen is not recorded" in card
    assert "\x1b" not in card
    assert "<script>" not in card
    assert "\n# x" not in card
    assert "| a\\|b # x |" in card
