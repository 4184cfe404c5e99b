"""Scores for weights and units, one file a criterion."""
