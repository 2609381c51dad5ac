"""Runtime of a process: ranks, devices, memory, signals, child processes."""
