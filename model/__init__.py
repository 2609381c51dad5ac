"""The model, its training and its use: all that runs on a GPU node, with no workflow engine."""
