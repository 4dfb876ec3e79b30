"""What the C++ kernel is asked for: the structure of request.hpp."""

from __future__ import annotations

import ctypes
import dataclasses

from adderlab.models.tables import Tables

TABLE_NAMES = tuple(field.name for field in dataclasses.fields(Tables) if field.name != "form")
"""In the order of ``enum Table``."""

Pointers = ctypes.c_void_p * len(TABLE_NAMES)


class Request(ctypes.Structure):
    """Mirrors ``Request`` in request.hpp."""

    _fields_ = [
        ("seeds", ctypes.c_int32),
        ("batch", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("eps2", ctypes.c_float),
        ("epsf", ctypes.c_float),
        ("tokens", ctypes.c_void_p),
        ("targets", ctypes.c_void_p),
        ("token_seed", ctypes.c_int64),
        ("target_seed", ctypes.c_int64),
        ("token_row", ctypes.c_int64),
        ("target_row", ctypes.c_int64),
        ("table", Pointers),
        ("grad", Pointers),
        ("loss", ctypes.c_void_p),
        ("margins", ctypes.c_void_p),
        ("answers", ctypes.c_void_p),
    ]
