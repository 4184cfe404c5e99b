"""New values for what stays."""
