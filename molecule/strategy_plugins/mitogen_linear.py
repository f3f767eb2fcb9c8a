"""Where Ansible finds Mitogen's strategy, whose own place depends on Python's version.

Ansible starts a Python for each task, which takes some 8 s on an emulated processor. Mitogen's stays.
"""

from ansible_mitogen import affinity
from ansible_mitogen.plugins.strategy.mitogen_linear import StrategyModule

# Mitogen's own policy keeps all that a play starts, QEMU with it, and the play itself on the second of two processors.
affinity.policy = affinity.Policy()

__all__ = ["StrategyModule"]
