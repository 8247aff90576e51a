"""Linear layers by another library give what torch's own gives, and are chosen by what is here."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from espalier.models import products as chosen  # noqa: E402
from espalier.models.products import (  # noqa: E402
    FLOAT32_ROUNDED,
    NATIVE,
    ONEDNN,
    choose_products,
    products,
    quickest_products,
)

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here"
)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 7, 5), (0, 5), (2, 0, 5)])
@pytest.mark.parametrize("shifted", [False, True])
def test_onednn_gives_the_same_layer(shape: tuple[int, ...], shifted: bool) -> None:
    torch.manual_seed(0)
    inputs, weight = torch.randn(shape), torch.randn(4, 5)
    bias = torch.randn(4) if shifted else None
    expected = inputs.double() @ weight.double().T
    expected = expected if bias is None else expected + bias.double()
    with torch.inference_mode(), products(ONEDNN):
        found = functional.linear(inputs, weight, bias)
        layer = torch.nn.Linear(5, 4, bias=shifted)
        assert layer(inputs).shape == found.shape
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_onednn_takes_any_strides() -> None:
    wide = torch.randn(6, 10, 8)
    inputs, weight = wide.transpose(0, 1)[:, ::2, :5], torch.randn(5, 4).T
    with torch.inference_mode(), products(ONEDNN):
        found = functional.linear(inputs, weight)
    torch.testing.assert_close(found, functional.linear(inputs, weight))


def test_other_types_and_what_is_trained_stay_torch_s() -> None:
    inputs, weight = torch.randn(3, 5, dtype=torch.bfloat16), torch.randn(4, 5).bfloat16()
    trained = torch.randn(4, 5, requires_grad=True)
    with products(ONEDNN):
        assert functional.linear(inputs, weight).dtype == torch.bfloat16
        functional.linear(inputs.float(), trained).sum().backward()
    assert trained.grad is not None
    assert trained.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("maker", "wide", "expected"),
    [
        ("AuthenticAMD", True, ONEDNN),
        ("AuthenticAMD", False, NATIVE),
        ("GenuineIntel", True, NATIVE),
        (None, True, NATIVE),
    ],
)
def test_it_is_chosen_where_mkl_leaves_avx512_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maker: str | None, wide: bool, expected: str
) -> None:
    file = tmp_path / "cpuinfo"
    if maker:
        file.write_text(f"processor\t: 0\nvendor_id\t: {maker}\ncpu family\t: 26\n")
    monkeypatch.setattr(chosen, "CPUINFO", file)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": wide})
    assert quickest_products(torch.float32, "cpu") == expected
    assert quickest_products(torch.float32, "cuda") == NATIVE
    assert choose_products(torch.float32, "cpu") == NATIVE
    assert quickest_products(torch.bfloat16, "cpu") == FLOAT32_ROUNDED
