"""The prover: decides all pairs (10^20 of ten columns) for a model in table form (docs/proof.md).

In the order of reading: ``problem`` (tables by digit column), ``carries`` (leaves and the carry DP),
``ranges`` (bounds of the attention output), ``head`` (bounds of the margins over boxes), ``search``
(leaf pass, then branch and bound), ``witnesses`` (real pairs at the ends), ``count`` (each failing
pair once), ``prove`` (the whole decision), ``certificate`` (what a checker needs), ``attack``.
"""
