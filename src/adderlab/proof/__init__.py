"""The prover: decides all pairs (10^20 of ten columns) for a model in table form (docs/proof.md).

In the order of reading: ``problem`` (tables by digit column), ``carries`` (leaves and the carry DP),
``ranges`` (bounds of the attention output), ``head`` (bounds of the margins over boxes), ``search``
(leaf pass, then branch and bound), ``witnesses`` (real pairs beside the bounds), ``count`` (each failing
pair once), ``prove`` (the whole decision), ``certificate`` (what a checker needs), ``trials`` (attack,
and every pair tried where that can be done).
"""
