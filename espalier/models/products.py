"""Which kernel multiplies 16-bit matrices on this processor.

A bfloat16 product with float32 accumulation, rounded at the end, equals the float32 product of the
same operands rounded to bfloat16, up to the order of summation. Where the processor has no 16-bit
dot products the second is several times faster. The values keep the checkpoint's dtype.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

NATIVE = "native"
FLOAT32_ROUNDED = "float32-rounded"
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


def products(kind: str) -> AbstractContextManager[Any]:
    """A context in which linear layers and attention use the kernel `kind`."""
    return _Float32Rounded() if kind == FLOAT32_ROUNDED else nullcontext()


class _Float32Rounded(TorchFunctionMode):  # type: ignore[misc]
    """Computes 16-bit products in float32 and rounds the result."""

    _products = (functional.linear, functional.scaled_dot_product_attention)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func not in self._products:
            return func(*args, **kwargs)
        operand: Any = args[0] if args else kwargs.get("input", kwargs.get("query"))
        dtype = operand.dtype
        if dtype not in _NATIVE_CAPABILITIES:
            return func(*args, **kwargs)
        if func is functional.linear:
            return _rounded_linear(*args, **kwargs)
        wide = [_widened(value) for value in args]
        return func(*wide, **{k: _widened(v) for k, v in kwargs.items()}).to(dtype)


def _rounded_linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """The linear layer of [..., C] inputs by [R, C] weights, widened a block of rows at a time."""
    output = input.new_empty((*input.shape[:-1], weight.shape[0]))
    wide = input.float()
    rows = max(1, BLOCK_ELEMENTS // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        block = slice(start, start + rows)
        shift = None if bias is None else bias[block].float()
        output[..., block] = functional.linear(wide, weight[block].float(), shift)
    return output


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype in _NATIVE_CAPABILITIES:
        return value.float()
    return value
