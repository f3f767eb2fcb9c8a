"""onnxruntime without its telemetry, which its Linux build (1.32) sends to Microsoft unless it is disabled."""

from __future__ import annotations

import os
from typing import Any


def load_onnxruntime() -> Any:
    """The module `onnxruntime`; nothing about an operator's models leaves the host. Raises ImportError.

    It reads the setting from the environment, and only while it is loaded.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime
