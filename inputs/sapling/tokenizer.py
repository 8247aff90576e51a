"""Sapling's byte-level BPE tokenizer, trained on its own text."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from espalier.contract.json_text import to_json

VOCABULARY = 1024
BEGIN, END = "<s>", "</s>"
BEGIN_ID, END_ID = 0, 1


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE of `VOCABULARY` entries; `<s>` is put before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BEGIN, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A",
        pair=f"{BEGIN} $A {BEGIN} $B:1",
        special_tokens=[(BEGIN, BEGIN_ID)],
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path, positions: int) -> None:
    """Write tokenizer.json and the two files transformers 4 and 5 both read."""
    tokenizer.save(str(directory / "tokenizer.json"))
    special = {"bos_token": BEGIN, "eos_token": END}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": positions,
        "clean_up_tokenization_spaces": False,
        **special,
    }
    for name, content in (
        ("tokenizer_config.json", settings),
        ("special_tokens_map.json", special),
    ):
        (directory / name).write_text(to_json(content, indent=2) + "\n")
