"""Builds circuits from models, and downloads missing keys of circuits."""

__all__ = ["build", "compare", "downloads", "sync"]
