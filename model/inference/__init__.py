"""Generation: the cached decoder, continuous batching, sampling, text streams."""
