"""Whether a model can be used: a check for `vaeseg-batch doctor`."""

from __future__ import annotations

import torch

from vaeseg.checks import Check, failed, passed
from vaeseg.errors import CheckpointError, ModelNotFoundError
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.models.files import resolve_model
from vaeseg.models.precision import number_type
from vaeseg.paths import AnyPath


def model_check(model: str, store_models: AnyPath | None) -> tuple[Check, str | None]:
    """Find a model and load it into its network.

    Args:
        model: its name, or the path of its file.
        store_models: directory of the store's models; None where there is no store.

    Returns:
        The check, and the SHA-256 of the model's file; None for one that cannot be used.
    """
    try:
        path = resolve_model(model, store_models)
        checkpoint = load_checkpoint(path)
    except ModelNotFoundError as error:
        return failed("model", str(error), "import it with 'vaeseg-batch model import', or name another --model"), None
    except CheckpointError as error:
        return failed("model", str(error), "get the file again from where it came, or train it again"), None
    if checkpoint.kind != "segmenter":
        found = f"{path.stem} is a {checkpoint.kind}, which segments nothing"
        return failed("model", found, "train a decoder on it: 'vaeseg-batch train decoder'"), None
    checkpoint.network()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    numbers = str(number_type("auto", device)).removeprefix("torch.")
    return passed("model", f"{path.stem}, {checkpoint.digest[:12]}, in {numbers} on {device}"), checkpoint.digest
