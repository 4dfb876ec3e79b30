"""One thread for PyTorch: the suite's numbers must not depend on the machine's cores.

Triton decides when it is first imported whether kernels are compiled or interpreted; whatever test
imports it first, without a CUDA device they are interpreted.
"""

import os

import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
