"""Networks exported from torch, timm and transformers definitions with random weights."""
