"""The machine and the other processes: ranks, devices, memory, signals."""
