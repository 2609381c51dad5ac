"""Text to ids: tokenizer, chat template, conversations; no torch."""
