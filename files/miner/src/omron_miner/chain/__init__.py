"""Chain access: the validator list, the axon announcement, and the hotkey."""

__all__ = ["chain", "open", "sdk", "subnet_list", "wallet", "watch"]
