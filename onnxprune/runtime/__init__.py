"""Finds and registers the sparse execution provider."""
