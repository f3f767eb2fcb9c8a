"""From a model to a circuit in place, and circuits whose missing keys are fetched."""

__all__ = ["build", "compare", "downloads", "sync"]
