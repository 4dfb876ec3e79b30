"""Publishing a model, and checking anybody's (docs/publishing.md).

A model goes out through ``export``, which measures and describes it (``model_card``) and writes its code
(``submission``, from the methods and expressions in ``forward``).

A stranger's file comes in through ``verify``, which runs it in a ``sandbox`` (what runs beside the file
is ``inside``), asks it for sums by its own rule (``scoring``), counts its numbers (``counting``),
watches what makes the sums (``watching``) and decides all pairs: ``decide`` has the model read in a
sandbox, takes in what is handed out (``handout``) and gives it to prover and checker in a process with
limits (``proving``). What comes of it is a ``verification``: score, count, watched, decided; of a
``folder`` of submissions, a table.
"""
