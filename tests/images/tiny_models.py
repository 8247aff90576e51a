"""Run inside an image: tiny models of the families that its transformers knows.

They go through all that a stage does with one.
"""

import sys
import tempfile

import torch
import transformers
from transformers import AutoModelForCausalLM

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}

for name in ("Llama", "Qwen3"):
    if not hasattr(transformers, f"{name}Config"):
        continue
    torch.manual_seed(0)
    family = getattr(transformers, f"{name}ForCausalLM")
    model = family(getattr(transformers, f"{name}Config")(**SHAPE)).eval()
    tokens = torch.randint(0, 64, (2, 16))
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    assert torch.isfinite(loss)
    grown = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=4, do_sample=False
    )
    assert grown.shape == (2, 20)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)
    sys.stdout.write(f"{family.__name__}\n")
