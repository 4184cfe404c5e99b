"""Coordinates, links and units; knows no operator by name."""
