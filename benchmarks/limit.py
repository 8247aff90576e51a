"""The products that no implementation can leave out, timed alone on random operands."""

import torch
from torch.nn import functional

from benchmarks.timed import best_seconds
from espalier.models.products import choose_products, products
from espalier.models.shapes import INPUT_GROUPS, Shapes
from espalier.pruning.parameters import BATCH_TOKENS


def limit_seconds(shapes: Shapes, method: str, samples: int, length: int) -> float:
    """Seconds for all layers: dense pass without the last projection, pruned pass but the last.

    SparseGPT adds the upper triangle of each distinct Hessian, its Cholesky factor and triangular
    inverse, and the updates behind each block (half of a full product).
    """
    if method == "magnitude":
        return 0.0
    tokens = samples * length
    matrices, layers = shapes.matrices, shapes.layers
    batch = min(tokens, max(length, BATCH_TOKENS))
    batches = tokens / batch
    total = 0.0
    with torch.inference_mode(), products(choose_products(torch.bfloat16, "cpu")):
        for name, (rows, columns) in matrices.items():
            x = torch.randn(batch, columns).bfloat16()
            w = torch.randn(rows, columns).bfloat16()
            passes = layers - 1 + (0 if name == "mlp.down_proj" else layers)
            total += passes * batches * best_seconds(lambda x=x, w=w: functional.linear(x, w))
        q = torch.randn(batch // length, shapes.heads, length, shapes.head_dim).bfloat16()
        attend = best_seconds(
            lambda: functional.scaled_dot_product_attention(q, q, q, is_causal=True)
        )
        total += (2 * layers - 1) * batches * attend
    if method == "sparsegpt":
        total += layers * _second_order(shapes, tokens, batch)
    return total


def _second_order(shapes: Shapes, tokens: int, batch: int) -> float:
    total = 0.0
    timed: dict[int, float] = {}
    for group in INPUT_GROUPS:
        width = shapes.matrices[group[0]][1]
        if width not in timed:
            x = torch.randn(batch, width)
            hessian = x.T @ x
            hessian.diagonal().add_(hessian.diagonal().mean())
            share = (width + 1) / (2 * width)
            product = share * tokens / batch * best_seconds(lambda x=x: x.T @ x)
            factor = best_seconds(lambda h=hessian: torch.linalg.cholesky(h), 1)
            lower = torch.linalg.cholesky(hessian)
            # A third of the operations of the solve that stands for the triangular inverse.
            inverse = best_seconds(
                lambda a=lower: torch.linalg.solve_triangular(a, torch.eye(len(a)), upper=False), 1
            )
            timed[width] = product + factor + inverse / 3
        total += timed[width]
        for name in group:
            w = torch.randn(shapes.matrices[name][0], width)
            u = torch.randn(width, width)
            total += 0.5 * best_seconds(lambda w=w, u=u: w @ u, 1)
    return total
