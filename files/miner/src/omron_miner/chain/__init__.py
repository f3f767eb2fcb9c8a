"""The one seam to the chain: who may ask, where we are served, and the hotkey that signs."""

__all__ = ["chain", "open", "sdk", "subnet_list", "wallet", "watch"]
