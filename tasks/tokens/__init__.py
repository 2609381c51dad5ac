"""Token library: training a byte-level BPE tokenizer and packing tokens into training rows."""
