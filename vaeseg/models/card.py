"""A model card in Markdown, from the record alone: what the record does not say is said to be unknown."""

from __future__ import annotations

from collections.abc import Mapping

from vaeseg.models.registry import ListedModel
from vaeseg.models.retraining import training_command

UNKNOWN = "not recorded"

_RESEARCH = "Research software: not a medical device, not for clinical use."


def model_card(model: ListedModel) -> str:
    """The card of a model that was shown; ends with a newline.

    Args:
        model: as `show_model` gives it, with a record.
    """
    assert model.record is not None
    sections = (_head, _network, _input, _data, _training, _figures, _limits)
    return "\n\n".join(section(model, model.record) for section in sections) + "\n"


def _head(model: ListedModel, record: Mapping[str, object]) -> str:
    what = {
        "segmenter": "Marks tumour in CT slices: a variational autoencoder whose decoder gives tumour, not image.",
        "vae": "Stage one, a variational autoencoder of CT slices: what a segmenter starts from. It marks nothing.",
    }[str(record["kind"])]
    return f"# Model card: {text(model.name)}\n\n{what}\n\n**{_RESEARCH}**"


def _network(model: ListedModel, record: Mapping[str, object]) -> str:
    latent = record["latent"]
    assert isinstance(latent, dict)
    shape = " x ".join(map(str, latent["shape"]))
    rows = {
        "kind": record["kind"],
        "network": f"{record['summary']}; no skip connections",
        "parameters": f"{record['n_parameters']:,}",
        "latent": f"{shape}: {latent['numbers']:,} numbers for {latent['input_numbers']:,} pixels",
        "file": f"{model.size_bytes:,} bytes, {record['precision']} precision, format {record['format_version']}",
        "digest of the file": record["digest"],
        "digest of the content": record["content_digest"],
    }
    return "## Network\n\n" + table(rows) + "\n\nArchitecture:\n\n" + table(record["architecture"])


def _input(model: ListedModel, record: Mapping[str, object]) -> str:
    return (
        "## Preprocessing\n\nAxial slices in Hounsfield units, resampled to a square grid and scaled to [0, 1].\n\n"
        + table(record["preprocessing"])
    )


def _data(model: ListedModel, record: Mapping[str, object]) -> str:
    seen = record["seen_tokens"]
    rows = {
        "data digest": record["data_digest"],
        "split digest": record["split_digest"],
        "subjects seen in training or selection": f"known by {seen} tokens" if seen else None,
    }
    return "## Data\n\n" + table(rows)


def _training(model: ListedModel, record: Mapping[str, object]) -> str:
    ancestors = record["ancestors"]
    assert isinstance(ancestors, list)
    rows = {
        "vaeseg": record["vaeseg_version"],
        "commit": record["commit"],
        "computed in": record["computed_in"],
        **{f"started from, {n} back": _ancestor(parent) for n, parent in enumerate(ancestors, 1)},
    }
    settings = record["training"]
    listed = table(settings) if settings else f"Settings: {UNKNOWN}."
    return f"## Training\n\n{table(rows)}\n\n{_command(record)}\n\n{listed}"


def _ancestor(parent: Mapping[str, str | None]) -> str:
    return f"{parent['digest']} ({parent['name'] or 'not in this store'})"


def _command(record: Mapping[str, object]) -> str:
    """Where the data lay is not in the record: it has their digest."""
    command = training_command(record)
    if command is None:
        return f"The command that trained it: {UNKNOWN}."
    return f"Trained as by this, DATA being the data of the digest above:\n\n    {plain(command)}\n\nAll settings:"


def _figures(model: ListedModel, record: Mapping[str, object]) -> str:
    metrics = record["metrics"]
    if not metrics:
        return f"## Figures\n\nFigures: {UNKNOWN}."
    return (
        "## Figures\n\nMeasured when training ended, on the model's own grid; `dev_` may have chosen the weights, "
        f"{_of_test(record)}. `vaeseg-batch evaluate` measures at the image's own resolution.\n\n"
        + table(metrics, absent="undefined")
    )


def _of_test(record: Mapping[str, object]) -> str:
    """A loss is undefined where it was not to be measured."""
    metrics = record["metrics"]
    assert isinstance(metrics, Mapping)
    if record["parent_digest"] and metrics.get("test_loss", 0.0) is None:
        return "and `test_` is undefined, since the model that it started from had seen subjects of the test part"
    return "`test_` did not"


def _limits(model: ListedModel, record: Mapping[str, object]) -> str:
    limits = [
        "Which patients, scanners and diseases it was trained on is not recorded: see the data set of that digest.",
        "Slices are read one at a time; nothing is known of the slice above or below.",
        "Images that differ from its training data (other window, organ, reconstruction, contrast) were not measured.",
    ]
    if not record["seen_tokens_are_all"]:
        who = "Whom the models before it have" if record["seen_tokens"] else "Whom it has"
        limits.append(f"{who} seen is not recorded, so that `evaluate` cannot refuse to measure on them.")
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def table(rows: object, absent: str = UNKNOWN) -> str:
    """Markdown table of names and values; None becomes `absent`."""
    assert isinstance(rows, Mapping)
    lines = [f"| {text(name)} | {absent if value is None else text(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def text(value: object) -> str:
    """A value that cannot break out of its cell."""
    return plain(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def plain(value: object) -> str:
    """A value in printable letters, whatever a file holds."""
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return "".join(letter if letter.isprintable() else " " for letter in shown)
