"""Optimizers of the network, and the schedule of their learning rate."""
