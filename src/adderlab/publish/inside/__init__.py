"""Programs that run beside a stranger's submission, in its own process. Standard library only; torch
where the submission brings it in. The ``reader`` alone uses adderlab: its reading of models."""
