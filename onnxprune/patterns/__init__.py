"""Which masks are allowed, one file a pattern."""
