"""Programs that run beside a stranger's submission, in its own process. Standard library only; torch
where the submission brings it in. They import nothing of adderlab."""
