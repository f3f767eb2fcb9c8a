"""Makes circuits cheaper to prove: rewrites an ONNX model in small checked passes and bounds what its tables must hold.

``graph`` is a model that passes change, ``passes`` are the rewrites, ``rewrite`` runs and checks them, ``samples`` are
the inputs they are checked on, ``ranges`` bounds the values that reach a table, ``ask_ezkl`` gets figures from EZKL.
``search`` selects run args by the estimates of ``cost``, ``trial`` measures them, ``results`` holds the measurements.
``tune`` runs all of it in four steps: ``prepare``, ``propose``, ``measure_trials`` and ``winner``, which has
`building.build` build the fastest. Not for serving. Needs the packages of ``omron-miner[tune]``.
"""

__all__ = ["job", "rewrite_file", "rewrite_report", "trial", "tune", "tune_report"]
