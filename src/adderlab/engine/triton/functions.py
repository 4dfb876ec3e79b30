"""What the kernels are made of. Rows are pairs, one to a thread; a tuple holds one number per feature.

Shapes: B pairs of a block, N features, D width (padded to a power of two, zeros beyond the width).
"""

# ruff: noqa: RUF005 (Triton adds tuples; it has no unpacking)
import triton
import triton.language as tl


@triton.jit
def numbers(pointer_B, known_B, N: tl.constexpr):
    """N consecutive numbers from every pointer, NaN where the token is none of the vocabulary."""
    found = ()
    for n in tl.static_range(N):
        found = found + (tl.load(pointer_B + n, mask=known_B, other=float("nan")),)
    return found


@triton.jit
def columns(pointer_B, stride, valid_B, N: tl.constexpr):
    """N numbers ``stride`` apart from every pointer, 0 in rows that hold no pair."""
    found = ()
    for n in tl.static_range(N):
        found = found + (tl.load(pointer_B + n * stride, mask=valid_B, other=0.0),)
    return found


@triton.jit
def filled(like, N: tl.constexpr):
    zeros = ()
    for _ in tl.static_range(N):
        zeros = zeros + (like * 0,)
    return zeros


@triton.jit
def inner(one, other, N: tl.constexpr):
    total = one[0] * other[0]
    for n in tl.static_range(1, N):
        total += one[n] * other[n]
    return total


@triton.jit
def add_scaled(sums, weight, values, N: tl.constexpr):
    """sums + weight * values."""
    result = ()
    for n in tl.static_range(N):
        result = result + (sums[n] + weight * values[n],)
    return result


@triton.jit
def scaled(values, factor, N: tl.constexpr):
    result = ()
    for n in tl.static_range(N):
        result = result + (values[n] * factor,)
    return result


@triton.jit
def add_by_token(sums_V, token_B, values_B, N: tl.constexpr, VOCABULARY: tl.constexpr):
    """To each of N sums over the vocabulary, the rows that hold the token. In a fixed order: atomics
    would give other bits in every run."""
    is_token_BV = token_B[:, None] == tl.arange(0, VOCABULARY)[None, :]
    result = ()
    for n in tl.static_range(N):
        result = result + (sums_V[n] + tl.sum(tl.where(is_token_BV, values_B[n][:, None], 0.0), 0),)
    return result


@triton.jit
def store_by_token(pointer, sums_V, stride, N: tl.constexpr, V: tl.constexpr, VOCABULARY: tl.constexpr):
    """Sums over the vocabulary into rows ``stride`` apart, feature by feature."""
    token_V = tl.arange(0, VOCABULARY)
    for n in tl.static_range(N):
        tl.store(pointer + token_V * stride + n, sums_V[n], mask=token_V < V)


@triton.jit
def matrix(pointer, ROWS: tl.constexpr, COLUMNS: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    """A dense (ROWS, COLUMNS) matrix, padded with zeros to (R, C)."""
    row_R, column_C = tl.arange(0, R)[:, None], tl.arange(0, C)[None, :]
    inside_RC = (row_R < ROWS) & (column_C < COLUMNS)
    return tl.load(pointer + row_R * COLUMNS + column_C, mask=inside_RC, other=0.0)


@triton.jit
def store_matrix(
    pointer, values_RC, ROWS: tl.constexpr, COLUMNS: tl.constexpr, R: tl.constexpr, C: tl.constexpr
):
    row_R, column_C = tl.arange(0, R)[:, None], tl.arange(0, C)[None, :]
    inside_RC = (row_R < ROWS) & (column_C < COLUMNS)
    tl.store(pointer + row_R * COLUMNS + column_C, values_RC, mask=inside_RC)


@triton.jit
def row(pointer, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """A vector, padded with zeros, as (1, PADDED)."""
    index = tl.arange(0, PADDED)
    return tl.load(pointer + index, mask=index < SIZE, other=0.0)[None, :]


@triton.jit
def store_row(pointer, values, SIZE: tl.constexpr, PADDED: tl.constexpr):
    index = tl.arange(0, PADDED)
    tl.store(pointer + index, values, mask=index < SIZE)


@triton.jit
def product(one, other):
    """A matrix product in float32 throughout: tensor cores' short formats would cost three digits."""
    return tl.dot(one, other, input_precision="ieee")


@triton.jit
def normalised(x_BD, eps, KIND: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr):
    """(x / its root mean square, 1 / that), x less its mean first for "layer"."""
    if KIND == "layer":
        inside_D = (tl.arange(0, PADDED) < D)[None, :]
        x_BD = tl.where(inside_D, x_BD - (tl.sum(x_BD, 1) / D)[:, None], 0.0)
    inverse_B = 1.0 / tl.sqrt(tl.sum(x_BD * x_BD, 1) / D + eps)
    return x_BD * inverse_B[:, None], inverse_B


@triton.jit
def normalised_back(
    cotangent_BD, unit_BD, inverse_B, KIND: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr
):
    """d loss / d x from cotangent = d loss / d ``normalised``, which is unit."""
    along_B = tl.sum(cotangent_BD * unit_BD, 1) / D
    cotangent_BD = (cotangent_BD - unit_BD * along_B[:, None]) * inverse_B[:, None]
    if KIND == "layer":
        inside_D = (tl.arange(0, PADDED) < D)[None, :]
        cotangent_BD = tl.where(inside_D, cotangent_BD - (tl.sum(cotangent_BD, 1) / D)[:, None], 0.0)
    return cotangent_BD


@triton.jit
def gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def gelu_slope(x):
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))
