"""The native engine: one C++ kernel on tables, a batch of samples in the SIMD lanes.

    NativeEngine(threads).loss_and_grad(tables, tokens, targets)

How it works, file by file:

shape.hpp      sizes of one table form, fixed when the kernel is compiled for it
simd.hpp       vectors of 16, 8 or 4 samples; table lookups; transposition
functions.hpp  exp2, log, GELU, SiLU
dense.hpp      small matrix products and their weight gradients
attention.hpp  attention over all earlier positions, and its derivative
columns.hpp    the network after attention, and its derivative
scatter.hpp    gradients of looked-up rows, added up by token
weights.hpp    one seed's tables folded for the inner loops; sums of gradients
tables.hpp     from PyTorch's tables to weights and back
block.hpp      tokens of a block of samples
pool.hpp       threads
kernel.cpp     the three entry points
build.py       compiles it, once for each form, into a cache folder
engine.py      the ``Engine`` interface
sampler.*      training pairs as tokens
program.py     the map from parameters to tables, traced and compiled; emit.py writes its loops
adamw.*        the optimiser's step

A seed is computed by one sequential program whose sums have a fixed order, so its results depend
neither on the number of threads nor on the seeds beside it.
"""

from adderlab.engine.native.build import NativeUnavailable
from adderlab.engine.native.engine import NativeEngine, why_not

__all__ = ["NativeEngine", "NativeUnavailable", "why_not"]
