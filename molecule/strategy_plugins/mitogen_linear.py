"""Where Ansible finds Mitogen's strategy, whose own place depends on Python's version.

Ansible starts a Python for each task, which takes some 8 s on an emulated processor. Mitogen's stays.
"""

from ansible_mitogen.plugins.strategy.mitogen_linear import StrategyModule

__all__ = ["StrategyModule"]
