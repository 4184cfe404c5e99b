"""The one place where bytes become a model and back."""
