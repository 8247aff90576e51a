"""What Composer trains: a stock model, and with its masks the multipliers that drive them.

Over several GPUs Composer's FSDP shards the stock model, a layer at a time. Masks and multipliers
are few, and read from outside the layers: each rank holds them whole.

Shapes: B rows, T tokens a row, V vocabulary, K domains.
"""

from typing import Any

import torch
from composer.models import ComposerModel
from torch import Tensor
from torchmetrics import Metric

from methods.sheared_llama.batches import Batch
from methods.sheared_llama.lagrangian import Lagrangian
from methods.sheared_llama.losses import next_token_losses, overall_mean, totals
from methods.sheared_llama.masked import MaskedModel
from methods.sheared_llama.masks import Masks

LOSSES = "losses"
"""Of the metric that an evaluation leaves."""


class DomainLosses(Metric):  # type: ignore[misc]
    """The losses of an evaluation by domain, added up exactly over batches and ranks."""

    full_state_update = False

    def __init__(self, domains: int) -> None:
        super().__init__()
        zeros = torch.zeros((3, domains), dtype=torch.int64)
        self.add_state("sums", default=zeros, dist_reduce_fx="sum")

    def update(self, logits: Tensor, batch: Batch) -> None:
        """Add a batch's, of its logits [B, T, V]."""
        losses = next_token_losses(logits, batch["input_ids"])
        self.sums += totals(losses, batch["domains"], self.sums.shape[1])

    def compute(self) -> Tensor:
        """The mean over all tokens, nats, a number."""
        mean = overall_mean(self.sums)
        return torch.tensor(float("nan") if mean is None else mean, dtype=torch.float64)


class StockModel(ComposerModel):  # type: ignore[misc]
    """A stock model on batches of domains.

    Attributes:
        stock: the model.
    """

    def __init__(self, stock: Any, domains: int) -> None:
        super().__init__()
        self.stock, self._domains = stock, domains
        stock.fsdp_wrap_fn = frozenset(stock.model.layers).__contains__

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, T, V]."""
        logits: Tensor = self.stock(input_ids=batch["input_ids"], use_cache=False).logits
        return logits

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy of the next token, nats."""
        return next_token_losses(outputs, batch["input_ids"]).mean()

    def eval_forward(self, batch: Batch, outputs: Tensor | None = None) -> Tensor:
        """As `forward`."""
        return self.forward(batch) if outputs is None else outputs

    def get_metrics(self, is_train: bool) -> dict[str, Metric]:
        """Losses by domain, of an evaluation."""
        return {} if is_train else {LOSSES: DomainLosses(self._domains)}

    def update_metric(self, batch: Batch, outputs: Tensor, metric: Metric) -> None:
        """Add a batch to the losses by domain."""
        metric.update(outputs, batch)

    def to_empty(self, *, device: Any, recurse: bool = True) -> Any:
        """As torch's, which gives an embedding that is the head too a parameter for each."""
        embedding, head = self.stock.get_input_embeddings(), self.stock.get_output_embeddings()
        tied = embedding.weight is head.weight
        super().to_empty(device=device, recurse=recurse)
        if tied:
            head.weight = embedding.weight
        return self


class ShearedModel(StockModel):
    """The model, its masks and the Lagrangian, whose parameters are all trained.

    Attributes:
        stock: the model that is sheared.
        masks: what is learned of it.
        lagrangian: what holds the masks to the target.
        masked: computes with the masks that are in use.
    """

    def __init__(self, stock: Any, masks: Masks, lagrangian: Lagrangian, domains: int) -> None:
        super().__init__(stock, domains)
        self.masks, self.lagrangian = masks, lagrangian
        masks._fsdp_wrap = lagrangian._fsdp_wrap = False
        self.masked = MaskedModel(stock)
