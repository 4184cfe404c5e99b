"""What each operator does to its axes, one file an operator family."""
