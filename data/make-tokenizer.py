#!/usr/bin/env python3
"""Trains `tokenizer.json` on the corpus below `raw/`.

    pip install tokenizers==0.23.3
    data/make-tokenizer.py data/raw data/tokenizer.json

A byte-level BPE as GPT-2 has it, small enough for a model that trains on two cores: 256 bytes,
one token that ends a document, and merges up to a vocabulary of 4096.
"""

import gzip
import json
import pathlib
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_DOCUMENT = "<|endoftext|>"


def texts(root: pathlib.Path):
    """Every text of the corpus, in the order of file names."""
    for path in sorted(root.rglob("*.gz")):
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
        if path.name.endswith(".jsonl.gz"):
            yield from (json.loads(line)["text"] for line in text.splitlines())
        else:
            yield from text.split("\n\n")


def main(root: str, into: str) -> None:
    """Trains and writes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(pathlib.Path(root)), trainer)
    tokenizer.save(into)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
