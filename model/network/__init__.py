"""The network: a decoder-only transformer, its attention, its losses, and its weights on disk."""
