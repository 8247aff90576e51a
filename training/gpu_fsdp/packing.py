"""What a model's mask of attention depends on, said by the host that reads the sequences.

Stock transformers asks the positions on the device whether a sequence holds several documents, in
every forward, and so waits there for all that was queued before.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def packing_known(packed: bool) -> Iterator[None]:
    """Answer that question for as long as the block lasts; masks are what they would be."""
    from transformers import masking_utils  # the other images' older releases have none

    def document_of(position_ids: Tensor) -> Tensor | None:
        """As transformers' own: the document of each token, int64 [B, L]; None: one a sequence."""
        if not packed:
            return None
        steps = torch.diff(position_ids, prepend=position_ids[:, :1] - 1, dim=-1)
        return (steps != 1).cumsum(-1)

    stock = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = document_of
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = stock
