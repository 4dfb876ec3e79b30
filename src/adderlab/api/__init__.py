"""The public API: what ``import adderlab`` offers, one module a theme (docs/api.md).

Every command of the command line is a client of these functions.
"""
