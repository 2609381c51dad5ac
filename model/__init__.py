"""The model, its training and its use: everything that runs on a bare GPU node, with no workflow engine."""
