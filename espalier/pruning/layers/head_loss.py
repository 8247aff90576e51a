"""The loss after the last layer, and its gradients, a block of the vocabulary at a time.

The loss of a sample is the mean cross-entropy of its tokens after the first. Its gradient with
respect to the logits is softmax - onehot, so that neither all logits nor a gradient as large as the
head is ever held.

Shapes: S samples, T tokens, H hidden, V vocabulary, v rows of a block of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from espalier.errors import InputError
from espalier.models.decoder import Decoder
from espalier.models.finite import overflow


@dataclass(frozen=True)
class HeadBlock:
    """Some rows of the output matrix.

    Attributes:
        first: the first of them.
        weight: [v, H].
    """

    first: int
    weight: Tensor

    def own(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the ids [N] are of this block, bool [N], and their rows in it, int64 [n]."""
        places = ids - self.first
        inside = (places >= 0) & (places < len(self.weight))
        return inside, places[inside]


class HeadLoss:
    """The loss of some samples, from the last layer's outputs.

    Attributes:
        losses: float32 [S].

    Raises:
        InputError: there is nothing to predict, or the loss is NaN or infinite.
    """

    def __init__(self, decoder: Decoder, hidden: Tensor, input_ids: Tensor) -> None:
        """`hidden`: [S, T, H]; `input_ids`: int64 [S, T]."""
        if input_ids.shape[1] < 2:
            raise InputError("a sample of one token has nothing to predict; give SEQLEN=2 or more.")
        self._decoder, self._hidden = decoder, hidden
        self._targets = input_ids[:, 1:].to(decoder.device)  # [S, T - 1]
        self._norm = decoder.architecture.final_norm(decoder.reader, decoder.dtype, decoder.device)
        with torch.no_grad():  # the last token predicts nothing
            states = (self._norm(part[:-1].to(decoder.device)).cpu() for part in hidden)
            self._normed = list(states)  # [T - 1, H] each
        self._log_sum = torch.full(self._targets.shape, -torch.inf, device=decoder.device)
        own = torch.zeros_like(self._log_sum)
        for block in self.blocks():
            for sample, states in enumerate(self._on_device()):
                logits = states @ block.weight.T  # [T - 1, v]
                total = torch.logaddexp(self._log_sum[sample], logits.logsumexp(-1))
                self._log_sum[sample] = total
                inside, rows = block.own(self._targets[sample])
                own[sample, inside] = logits[inside, rows]
        self.losses = (self._log_sum - own).mean(dim=1).cpu()
        if not torch.isfinite(self.losses).all():
            raise InputError(overflow("the loss", decoder.dtype))

    @property
    def weight_name(self) -> str:
        """Of the output matrix, as the checkpoint stores it."""
        return self._decoder.architecture.head_name(self._decoder.reader)

    def blocks(self) -> Iterator[HeadBlock]:
        """The output matrix, a block at a time."""
        first, decoder = 0, self._decoder
        for block in decoder.architecture.head_blocks(decoder.reader):
            yield HeadBlock(first, block.to(device=decoder.device, dtype=decoder.dtype))
            first += len(block)

    def gradient(self, block: HeadBlock, sample: int) -> Tensor:
        """Of a sample's loss with respect to the block's rows, [v, H]."""
        states = self._normed[sample].to(self._decoder.device)
        return self._logit_gradients(block, sample, states).T @ states

    def backward(self) -> tuple[Tensor, list[Tensor]]:
        """Gradients with respect to the last layer's outputs and the final norm's weight.

        Returns:
            of each sample's own loss: [S, T, H] on the host, and for each sample [H].
        """
        normed = torch.zeros_like(self._hidden[:, :-1], device=self._decoder.device)
        for block in self.blocks():
            for sample, states in enumerate(self._on_device()):
                normed[sample] += self._logit_gradients(block, sample, states) @ block.weight
        gradient, of_norm = torch.zeros_like(self._hidden), []
        weight = self._norm.weight.requires_grad_()
        for sample, upstream in enumerate(normed):
            states = self._hidden[sample, :-1].to(self._decoder.device).requires_grad_()
            with torch.enable_grad():
                outputs = self._norm(states)
            for_states, for_weight = torch.autograd.grad(outputs, (states, weight), upstream)
            gradient[sample, :-1] = for_states.cpu()
            of_norm.append(for_weight)
        weight.requires_grad_(requires_grad=False)
        return gradient, of_norm

    def _logit_gradients(self, block: HeadBlock, sample: int, states: Tensor) -> Tensor:
        """[T - 1, v] of a sample's loss."""
        logits = states @ block.weight.T
        gradients = (logits - self._log_sum[sample, :, None]).exp()
        inside, rows = block.own(self._targets[sample])
        gradients[inside, rows] -= 1
        return gradients / self._targets.shape[1]

    def _on_device(self) -> Iterator[Tensor]:
        """What each sample's tokens but the last are after the final norm, [T - 1, H]."""
        for states in self._normed:
            yield states.to(self._decoder.device)
