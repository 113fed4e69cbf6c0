"""bfloat16 where it is fast."""

from __future__ import annotations

import pytest
import torch

from vaeseg.models.precision import name_of, number_type


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_bf16_is_used_where_the_hardware_has_it(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` asks the processor or the GPU; the other two are orders."""
    place = torch.device(device)
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has and device == "cpu")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has, **_: has and device == "cuda")
        assert number_type("auto", place) is (torch.bfloat16 if has else torch.float32)
        assert number_type("bf16", place) is torch.bfloat16
        assert number_type("fp32", place) is torch.float32


def test_a_number_type_has_the_name_that_records_have() -> None:
    """Without the library's."""
    assert [name_of(number) for number in (torch.float32, torch.bfloat16)] == ["float32", "bfloat16"]
