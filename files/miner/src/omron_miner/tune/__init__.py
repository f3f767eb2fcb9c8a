"""Makes circuits cheaper to prove: rewrites an ONNX model in small checked passes and bounds what its tables must hold.

``graph`` is a model that passes change, ``passes`` are the rewrites, ``rewrite`` runs and checks them, ``samples`` are
the inputs they are checked on, ``ranges`` bounds the values that reach a table, ``ask_ezkl`` has EZKL's word on them.
``search`` looks for run args by what ``cost`` estimates, ``trial`` tries them for real, ``results`` holds what came of
it. ``tune`` does all of it in four steps: ``prepare``, ``propose``, ``measure_trials`` and ``winner``, which has
`building.build` build the fastest. Not for serving. Needs the packages of ``omron-miner[tune]``.
"""

__all__ = ["job", "rewrite_file", "rewrite_report", "trial", "tune", "tune_report"]
