"""The native engine: one C++ kernel on tables, a batch of samples in the SIMD lanes.

    NativeEngine(threads).loss_and_grad(tables, tokens, targets)

How it works, file by file:

plan.py        what follows the attention (a head program), merged into what a kernel computes at once
head.py        writes from it the C++ of the head: stages, their derivative, weights and gradients
shape.hpp      sizes that follow from those of one table form; the buffers of an answer step
simd.hpp       vectors of 16, 8 or 4 samples; table lookups; transposition
functions.hpp  exp2, log, and every function of a head program
dense.hpp      small matrix products and their weight gradients
norms.hpp      RMS and layer norm, and their derivative
attention.hpp  attention over all earlier positions, and its derivative
loss.hpp       loss, margin and best token from the logits
scatter.hpp    gradients of looked-up rows, added up by token
weights.hpp    one seed's tables folded for the inner loops; sums of gradients
tables.hpp     from PyTorch's tables to weights and back
block.hpp      tokens of a block of samples; scores that depend on them
pool.hpp       threads
kernel.hpp     the three entry points
build.py       compiles it, once for each form, into a cache folder; and traces what leads to the tables
emit.py        writes the loops of that trace, with formulas.py for the operations
engine.py      the ``Engine`` interface
sampler.*      training pairs as tokens
adamw.*        the optimiser's step
steps.cpp      the loop around all these

A seed is computed by one sequential program whose sums have a fixed order, so its results depend
neither on the number of threads nor on the seeds beside it.
"""

from adderlab.engine.native.build import NativeUnavailable
from adderlab.engine.native.engine import NativeEngine, why_not

__all__ = ["NativeEngine", "NativeUnavailable", "why_not"]
