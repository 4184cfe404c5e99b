"""How much to take from where, one file a strategy."""
