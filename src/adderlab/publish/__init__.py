"""Publishing a model, and checking anybody's (docs/publishing.md).

A model goes out through ``export``, which measures and describes it (``model_card``) and writes its code
(``submission``, from the methods in ``forward``, from the expressions in ``parts``).

A stranger's file comes in through ``verify``, which runs it in a ``sandbox`` (what runs beside the file
is ``inside``), asks it for sums (``scoring``) and counts its numbers (``counting``). What comes of it is
a ``verification``: score, count, watched, decided.
"""
