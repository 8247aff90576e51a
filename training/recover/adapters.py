"""Low-rank adapters of a model's matrices (LoRA), by peft, and what they add to each matrix.

Hu et al., 2021, arXiv 2106.09685: W + scale · B A, with B [outputs, rank] zero at first and A
[rank, inputs] random. Adapters are float32, whatever the weights are.

What stays zero stays zero in every forward pass, so that the function that is trained is the one
that is published: where a mask zeroes entries, what is added is mask ∘ (scale · B A); where padding
is, the rows of B and the columns of A that reach it are zero, which is the same.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import linear

from espalier.models.padding import Padding
from training.gpu_fsdp.model import LanguageModel, generator_of
from training.recover.dropout import Drawn, SampleDropout
from training.recover.spec import RecoverParameters

ADAPTER = "default"
"""What peft calls the only one."""
BASE = ".base_layer."
"""What peft puts into the names of the weights beside it."""


class MaskedProduct(torch.autograd.Function):  # type: ignore[misc]
    """x Wᵀ with W = mask ∘ (scale · B A), to which the weights are added where they are whole.

    The mask is wherever the frozen weights differ from zero. No matrix is kept for the gradients:
    it is made again.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd gives them by position
        ctx: Any, x: Tensor, weights: Tensor, A: Tensor, B: Tensor, scale: float, whole: bool
    ) -> Tensor:
        """Shapes: x [..., inputs], weights [outputs, inputs], A [rank, inputs], B [outputs, rank].

        Products with x are in its dtype, all else in that of A and B.
        """
        ctx.save_for_backward(x, weights, A, B)
        ctx.scale, ctx.whole = scale, whole
        return linear(x, _effective(weights, A, B, scale, whole).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, A and B."""
        x, weights, A, B = ctx.saved_tensors
        of_x = None
        if ctx.needs_input_grad[0]:  # the first layer's input is the embedding's, which is frozen
            of_x = gradient @ _effective(weights, A, B, ctx.scale, ctx.whole).to(x.dtype)
        rows = gradient.flatten(0, -2).to(A.dtype)  # [N, outputs]
        of_added = (rows.T @ x.flatten(0, -2).to(A.dtype)).mul_(ctx.scale)
        of_added.masked_fill_(weights == 0, 0)  # [outputs, inputs]
        return of_x, None, B.T @ of_added, of_added @ A.T, None, None


def added(weights: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """Mask ∘ (scale · B A), in the dtype of A and B; where the weights are zero it is zero."""
    return ((B @ A) * scale).masked_fill_(weights == 0, 0)


def _effective(weights: Tensor, A: Tensor, B: Tensor, scale: float, whole: bool) -> Tensor:
    change = added(weights, A, B, scale)
    return change.add_(weights.to(A.dtype)) if whole else change


class MaskedLora(Linear):  # type: ignore[misc]  # its module has no types
    """peft's adapter of a matrix some of whose entries stay zero."""

    def get_delta_weight(self, adapter: str) -> Tensor:
        """What the adapter adds, float32 [outputs, inputs]."""
        A, B = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        return added(self.base_layer.weight, A, B, self.scaling[adapter])

    def forward(self, x: Tensor) -> Tensor:
        """As the merged matrix, but for dropout of what the adapter reads."""
        base, dropout = self.base_layer, self.lora_dropout[ADAPTER]
        A, B = self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
        scale = self.scaling[ADAPTER]
        if self.disable_adapters:
            return base(x)
        if isinstance(dropout, SampleDropout) and dropout.training:
            return base(x) + MaskedProduct.apply(dropout(x), base.weight, A, B, scale, False)
        product = MaskedProduct.apply(x, base.weight, A, B, scale, True)
        return product if base.bias is None else product + base.bias


def add_adapters(
    model: LanguageModel,
    matrices: list[str],
    parameters: RecoverParameters,
    drawn: Drawn,
    *,
    masked: bool,
) -> None:
    """Freeze the model and put an adapter beside each of its layers' `matrices`."""
    model.requires_grad_(False)
    config = LoraConfig(
        r=parameters.r,
        lora_alpha=parameters.alpha,  # type: ignore[arg-type]  # which it only divides
        lora_dropout=parameters.dropout,
        target_modules=matrices,
    )
    if masked:
        config._register_custom_module({nn.Linear: MaskedLora})
    inject_adapter_in_model(config, model.stock, ADAPTER)
    for name, module in model.stock.named_modules():
        if isinstance(module, Linear):
            if parameters.dropout:
                dropout = SampleDropout(parameters.dropout, name, drawn)
                module.lora_dropout[ADAPTER] = dropout
            module.lora_A.float()
            module.lora_B.float()
    model.train()
    for name, weight in adapters_of(model).items():
        with torch.no_grad():
            weight.copy_(_initial(name, tuple(weight.shape), parameters.seed))


def adapters_of(model: LanguageModel) -> dict[str, nn.Parameter]:
    """What is trained, by names such as `model.layers.0.mlp.up_proj.lora_A`."""
    return {
        name.removesuffix(f".{ADAPTER}.weight"): weight
        for name, weight in model.named_weights().items()
        if weight.requires_grad
    }


def weights_beside(model: LanguageModel) -> dict[str, nn.Parameter]:
    """The frozen weights, by the names that the checkpoint gives them."""
    return {
        name.replace(BASE, "."): weight
        for name, weight in model.named_weights().items()
        if not weight.requires_grad
    }


def changes(model: LanguageModel) -> Iterator[tuple[str, Linear]]:
    """Each matrix that has an adapter, by the checkpoint's name of it."""
    for name, module in model.stock.named_modules():
        if isinstance(module, Linear):
            yield f"{name}.weight", module


def beside_padding(
    adapters: Mapping[str, Tensor], paddings: Mapping[str, Padding]
) -> dict[str, Tensor]:
    """Where adapters of matrices with padding may differ from zero, bool, by their names."""
    kept = {}
    for name, padding in paddings.items():
        matrix = name.removesuffix(".weight")
        for half, dimension in (("lora_B", 0), ("lora_A", 1)):
            weight = adapters.get(f"{matrix}.{half}")
            if weight is None or not padding.ranges[dimension:]:
                continue  # a bias
            entries = torch.ones(weight.shape, dtype=torch.bool)
            for first, end in padding.ranges[dimension]:
                entries.narrow(dimension, first, end - first).fill_(False)
            kept[f"{matrix}.{half}"] = entries.to(weight.device)
    return kept


def _initial(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """As peft and the paper's own code begin: A uniform within ± 1/√inputs, and B zero."""
    weight = torch.zeros(shape)
    if name.endswith("lora_A"):
        bound = shape[1] ** -0.5
        weight.uniform_(-bound, bound, generator=generator_of(seed, name))
    return weight
