"""A circuit on disk: its files, settings, inputs and SRS, and the store that finds, caches and refuses circuits."""

__all__ = [
    "accuracy",
    "checksums",
    "circom",
    "circuit",
    "circuit_store",
    "constant_output",
    "examples",
    "fit",
    "folders",
    "inputs",
    "load",
    "needs",
    "onnx_runtime",
    "run_args",
    "srs",
]
