"""Sparse encodings, one file a format."""
