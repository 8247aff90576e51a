"""Which kernel multiplies matrices on this processor.

A bfloat16 product with float32 accumulation, rounded at the end, equals the float32 product of the
same operands rounded to bfloat16, up to the order of summation. Where the processor has no 16-bit
dot products the second is several times faster. The values keep the checkpoint's dtype.

Of float32, torch multiplies by MKL, which has AVX-512 for Intel's processors alone; torch's other
library, oneDNN, uses it on any, twice as fast where MKL does not.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

NATIVE = "native"
FLOAT32_ROUNDED = "float32-rounded"
ONEDNN = "onednn"
CPUINFO = Path("/proc/cpuinfo")
BLOCK_ELEMENTS = 1 << 22
"""16 MiB in float32: buffers this small are reused, larger ones are cleared anew each time."""

_NATIVE_CAPABILITIES = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16", "sve_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "fp16_arith", "arm_fp16"),
}


def choose_products(dtype: Any, device: str) -> str:
    """`native` or `float32-rounded`, from what the processor declares; nothing is measured."""
    if device != "cpu" or dtype not in _NATIVE_CAPABILITIES:
        return NATIVE
    capabilities = torch.cpu.get_capabilities()
    native = any(capabilities.get(name) for name in _NATIVE_CAPABILITIES[dtype])
    return NATIVE if native else FLOAT32_ROUNDED


def quickest_products(dtype: Any, device: str) -> str:
    """As `choose_products`, or `onednn`: float32 sums in another order than torch's own.

    From what the processor declares too, so that one machine gives the same bytes each time.
    """
    if dtype == torch.float32 and device == "cpu" and _without_mkl():
        return ONEDNN
    return choose_products(dtype, device)


def products(kind: str) -> AbstractContextManager[Any]:
    """A context in which linear layers and attention use the kernel `kind`."""
    if kind == ONEDNN:
        return _Instead({functional.linear: _onednn_linear})
    if kind == FLOAT32_ROUNDED:
        attention = functional.scaled_dot_product_attention
        return _Instead({functional.linear: _rounded_linear, attention: _rounded_attention})
    return nullcontext()


def _without_mkl() -> bool:
    """Whether this is no processor of Intel's, has AVX-512, and torch has a product for it."""
    try:
        maker = re.search(r"^vendor_id\s*:\s*(\S+)", CPUINFO.read_text(), re.MULTILINE)
    except OSError:
        return False
    return (
        maker is not None
        and maker[1] != "GenuineIntel"
        and bool(torch.cpu.get_capabilities().get("avx512_f"))
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


class _Instead(TorchFunctionMode):  # type: ignore[misc]
    """Calls other functions in place of some of torch's; they may call what they stand for."""

    def __init__(self, others: Mapping[Callable[..., Any], Callable[..., Any]]) -> None:
        super().__init__()
        self._others = others

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self._others.get(func, func)(*args, **dict(kwargs or {}))


def _onednn_linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """The linear layer of [..., C] inputs by [R, C] weights."""
    ours = input.dtype == weight.dtype == torch.float32 and input.numel()
    if not ours or torch.is_grad_enabled():
        return functional.linear(input, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


def _rounded_linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """The linear layer of [..., C] inputs by [R, C] weights, widened a block of rows at a time."""
    if input.dtype not in _NATIVE_CAPABILITIES:
        return functional.linear(input, weight, bias)
    output = input.new_empty((*input.shape[:-1], weight.shape[0]))
    wide = input.float()
    rows = max(1, BLOCK_ELEMENTS // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        block = slice(start, start + rows)
        shift = None if bias is None else bias[block].float()
        output[..., block] = functional.linear(wide, weight[block].float(), shift)
    return output


def _rounded_attention(query: Any, *others: Any, **named: Any) -> Any:
    """Attention of 16-bit operands, computed in float32."""
    if query.dtype not in _NATIVE_CAPABILITIES:
        return functional.scaled_dot_product_attention(query, *others, **named)
    wide = [_widened(value) for value in (query, *others)]
    widened = {name: _widened(value) for name, value in named.items()}
    return functional.scaled_dot_product_attention(*wide, **widened).to(query.dtype)


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype in _NATIVE_CAPABILITIES:
        return value.float()
    return value
