"""A model's correctness as a theorem of the Coq proof assistant (docs/theorem.md).

``coq`` holds the development: what the transformer is (``Transformer.v``), a program that decides
whether one adds (``Checker.v``), and the proof that what it accepts adds (``Soundness.v``). ``export``
writes a model's weights beside it.
"""
