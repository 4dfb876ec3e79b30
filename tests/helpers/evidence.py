"""What a run leaves, made up for the log and the report."""

EVALUATION = {
    "checkpoint": "x/best.pt",
    "weights_sha256": "ab",
    "parameters": 456,
    "suite": "published",
    "n": 100_000,
    "errors": 12,
    "digit_accuracy": [1.0] * 10 + [0.99988],
    "failures": [{"group": "41", "a": 1, "b": 2, "answer": "00000000004", "sum": 3}],
    "groups": [{"name": "41", "n": 100_000, "errors": 12}],
}


CERTIFICATE = {
    "format": "adderlab-certificate",
    "weights_sha256": "ab",
    "verdict": "proved",
    "failing_pairs": 0,
    "counterexample": None,
    "margin": {"bound": 0.33, "witness": 0.505, "pair": [9_999_999_999, 1]},
    "steps": [{"margin_bound": 0.33 + i} for i in range(11)],
    "leaves": 170_300,
}
