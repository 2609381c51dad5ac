"""The clean text of a corpus as a data set folder with its card."""
