"""The independent checker of certificates.

It shares no code with the prover and trusts no number in a certificate. ``check_file`` is the door;
``enclosure`` (tables), ``tracing``, ``mixing`` and ``floating`` (fp32) and ``checkpoint`` are the only
files that touch PyTorch and ``adderlab.models``: they run the model's own code on other numbers.
"""

from adderlab.checker.fp32 import FloatReport
from adderlab.checker.verify import Report, check_file

__all__ = ["FloatReport", "Report", "check_file"]
