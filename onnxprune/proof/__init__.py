"""Is the pruned model right, how close, how fast."""
