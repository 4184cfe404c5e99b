"""Tables, JSON, HTML."""
