"""onnxruntime without its telemetry, which its Linux build (1.32) sends to its maker unless it is disabled.

Told by the environment, which is read when the library is loaded: nothing about an operator's models leaves the host.
"""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

__all__ = ["onnxruntime"]
