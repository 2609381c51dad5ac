"""The demo corpus: generated stories and conversations with known faults planted."""
