"""The independent checker of certificates: it proves every claim again and trusts none.

It stands alone: numpy does the arithmetic (rounded outward, ``intervals``), python-flint the
transcendental functions (``functions``), and the certificate is read as a stranger's file
(``document``). It shares no code with the prover. What it does share with the rest of adderlab:

- ``adderlab.errors``, the two exceptions for users, and ``adderlab.results``, how results are shown.
- The map from parameters to tables, ``adderlab.models.tables.tables``, with the layouts of
  ``adderlab.task``. It is run here too, but on intervals (``enclosure``): its *code* is trusted to be
  the model, no number that it computes in floating point is.
- The readable module, ``adderlab.models.transformer``: the fp32 question is about this very program
  (``tracing``, ``fp32``), which runs on numbers that carry their rounding errors.
- The reading of checkpoints, done by the caller, who passes weights and their hash (``verify``).

Only ``enclosure``, ``tracing``, ``fp32`` and ``verify`` import PyTorch and ``adderlab.models``, to run
the model's own code, and ``primitives`` imports PyTorch, to measure it; a test holds the checker to this
list.
"""

from adderlab.checker.fp32 import FloatReport
from adderlab.checker.verify import Report, check_file

__all__ = ["FloatReport", "Report", "check_file"]
