"""The circuit offered to a competition: its files, storage, watch, score and evaluation."""

__all__ = ["evaluate", "files", "inputs", "report", "score", "status", "storage", "watch"]
