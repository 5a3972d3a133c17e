"""Examples: rows of text and label -> ragged tokens with stable example ids -> batches of ids."""
