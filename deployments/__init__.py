"""Where the flows run: the local stack of plain processes, and the container stack."""
