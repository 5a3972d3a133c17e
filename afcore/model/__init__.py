"""A Hugging Face model: weights, blocks, prefix and suffix, the last block where it is read."""
