"""The independent checker of certificates: it proves every claim again and trusts none.

It stands alone: numpy does the arithmetic (rounded outward, ``intervals``), python-flint the
transcendental functions (``functions``), and the certificate is read as a stranger's file
(``document``). It shares no code with the prover. What it does share with the rest of adderlab:

- ``adderlab.errors``, the two exceptions for users, and ``adderlab.results``, how results are shown.
- The readable module, ``adderlab.models.transformer``, which *is* the model: it runs on numbers that
  carry enclosures and rounding errors (``tracing``), and verdict and fp32 answer are about this very
  program (``own_pass``, ``fp32``). How its attention mixes values, softmax and all, is written down in
  those files once more.
- The map from parameters to tables, ``adderlab.models.tables.tables``, or what was recorded of a file's
  own model (``adderlab.reading``, by its ``tables`` method), run on intervals (``enclosure``).
  A certificate's bounds are about tables, so they are needed, but not trusted: ``own_pass`` bounds their
  distance from the module.
- The recording of a file's model, whose operations are run again with their rounding errors
  (``recorded``).
- The layouts of ``adderlab.task``: which token stands where.
- The reading of checkpoints, done by the caller, who passes weights and their hash (``verify``).

Only ``enclosure``, ``tracing``, ``fp32``, ``own_pass``, ``recorded`` and ``verify`` import PyTorch and
``adderlab.models`` or ``adderlab.reading``, to run the model's own code, and ``primitives`` imports
PyTorch, to measure it; a test holds the checker to this list.
"""

from adderlab.checker.fp32 import FloatReport
from adderlab.checker.verify import Report, check_file

__all__ = ["FloatReport", "Report", "check_file"]
