"""AdamW as torch has it, or Muon for the hidden matrices beside it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from training.gpu_fsdp.model import rows_of
from training.gpu_fsdp.sparsity import local
from training.gpu_fsdp.spec import TrainingParameters

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Of the quintic that drives every singular value towards one."""
ITERATIONS = 5
MOMENTUM = 0.95
UPDATE_RMS = 0.2
"""An orthogonal matrix is scaled to the size of AdamW's updates, so that both share a rate."""


def optimizers(
    weights: Mapping[str, nn.Parameter], parameters: TrainingParameters
) -> list[Optimizer]:
    """What steps the weights, each of them once."""
    hidden = [p for name, p in weights.items() if p.ndim == 2 and ".layers." in name]
    if parameters.optimizer == "adamw":
        hidden = []
    chosen = set(map(id, hidden))
    others = [p for p in weights.values() if id(p) not in chosen]
    adam = AdamW(
        _groups(others, parameters),
        lr=parameters.lr,
        betas=(parameters.beta1, parameters.beta2),
        weight_decay=0.0 if hidden else parameters.weight_decay,
        fused=True,
    )
    muon = [Muon(hidden, parameters.lr, parameters.weight_decay)] if hidden else []
    return [adam, *muon]


def _groups(weights: list[nn.Parameter], parameters: TrainingParameters) -> list[dict[str, Any]]:
    """All weights alike, or norms and biases apart from what decays."""
    if parameters.decay == "all":
        return [{"params": weights}]
    matrices = [weight for weight in weights if weight.ndim > 1]
    rest = [weight for weight in weights if weight.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class Muon(Optimizer):  # type: ignore[misc]
    """Momentum whose matrices are made orthogonal before the step.

    Keller Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/. torch's own multiplies
    in bfloat16, one matrix at a time: on a CPU without it that costs more than the model itself.
    Equal shapes are treated together; of a sharded matrix every rank computes the whole update.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Use the gradients of all parameters once, with Nesterov's momentum."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for shape, parameters in alike.items():
                updates = orthogonal(torch.stack([self._momentum(p) for p in parameters]))
                scale = group["lr"] * UPDATE_RMS * max(shape) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    start, stop = rows_of(parameter)
                    shard = local(parameter)
                    shard.mul_(1 - group["lr"] * group["weight_decay"])
                    shard.sub_(update[start:stop], alpha=scale)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        """The whole matrix of Nesterov's momentum, after this gradient."""
        gradient, state = parameter.grad, self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        local(state["momentum"]).lerp_(local(gradient), 1 - MOMENTUM)
        ahead = torch.zeros_like(gradient)
        local(ahead).copy_(local(gradient).lerp(local(state["momentum"]), MOMENTUM))
        return ahead.full_tensor() if hasattr(ahead, "full_tensor") else ahead


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest (half-)orthogonal matrices, roughly, float32 [count, rows, columns]."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    X = matrices.mT if tall else matrices
    X = X / X.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(ITERATIONS):
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X.mT if tall else X
