"""A model as JavaScript: its map from parameters to tables, from the trace that the native engine
compiles, its head program, and the attention between them. A page computes with it what the engines do,
in double precision and one pair at a time.
"""
