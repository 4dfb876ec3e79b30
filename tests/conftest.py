"""One thread for PyTorch: the suite's numbers must not depend on the machine's cores."""

import torch

torch.set_num_threads(1)
