"""A Hugging Face model: weights, blocks, prefix and suffix; the suffix compiled, or in part."""
