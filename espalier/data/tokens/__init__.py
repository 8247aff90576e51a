"""Token data on the store: documents as token ids, in shards that are read by memory map.

A directory `data/<name>` holds `tokens.json` and, of each split, shards `train-00000-of-00003`:
`.tokens` are the ids, little-endian, one document after another as [BOS] document [EOS]; `.starts`
are uint64 offsets of the documents' first ids and, last, of the end. No document spans shards.
"""

INDEX = "tokens.json"
