"""Samples in, statistics out."""
