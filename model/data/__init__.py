"""Files that one layer writes and another reads: shards, rows, items, prompts; no torch."""
