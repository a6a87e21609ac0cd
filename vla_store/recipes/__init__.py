"""One small module per trainer: what its own dataset yields, from a store."""
