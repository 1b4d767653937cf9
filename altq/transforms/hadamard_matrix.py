"""Hadamard matrices: square, entries +1 and -1, orthogonal rows (H H^T = n I).

Orders come from Sylvester's doubling, Paley's two constructions over finite fields, Williamson's four circulants, and
Kronecker products of these. That covers every multiple of 4 up to 184, and the sizes of LLaMA, Qwen and Mistral.
"""

import math
from functools import cache
from itertools import count, product

import torch
from torch import Tensor

# Williamson's four symmetric circulants of odd order m, A^2 + B^2 + C^2 + D^2 = 4 m I, for orders 4 m that Paley's
# constructions miss. Bit k - 1 of a number set means -1 at places k and m - k of the circulant's first row; the rest is
# +1. Found by matching power spectra: all sequences for 23 and 29; for 39, B, C and D images of one another under
# multiplication of places by 16; for 43, all four unchanged by multiplication by 6 (up to sign of the place).
_WILLIAMSON = {
    23: (794, 752, 671, 1162),
    29: (1765, 9461, 459, 7204),
    39: (248183, 88569, 179255, 512838),
    43: (1709460, 634626, 1189991, 1993998),
}


def hadamard_matrix(order: int) -> Tensor:
    """A Hadamard matrix H, H H^T = order I; not symmetric in general.

    Returns float64 [order, order] with entries +1 and -1, a tensor of the caller's own.
    Raises ValueError for an order with no construction here, naming the nearest orders with one.
    Sources: Sylvester (1867), Paley (1933), Williamson (1944).
    """
    if order < 1:
        raise ValueError(f"a Hadamard matrix has an order of at least 1, not {order}")
    factors = _factors(order)
    if factors is None:
        smaller = next(n for n in range(order, 0, -1) if has_hadamard(n))
        larger = next(n for n in count(order) if has_hadamard(n))
        raise ValueError(
            f"no Hadamard matrix of order {order} can be constructed; the nearest orders are {smaller} and {larger}"
        )
    matrix = torch.ones(1, 1, dtype=torch.int8)
    for factor in factors:
        matrix = torch.kron(matrix, _construct(factor))
    return matrix.to(torch.float64)


def has_hadamard(order: int) -> bool:
    """Whether `hadamard_matrix` can construct this order."""
    return _factors(order) is not None


def orthogonal_hadamard(order: int) -> Tensor:
    """The orthogonal matrix H / sqrt(order), float64 [order, order]; ValueError as `hadamard_matrix`."""
    return hadamard_matrix(order).div_(math.sqrt(order))


@cache
def _factors(order: int) -> tuple[int, ...] | None:
    """Orders that `_construct` accepts, with product `order`: a power of two and the smallest cofactor, if possible."""
    if order < 1 or (order > 2 and order % 4):
        return None
    odd = order // (order & -order)
    if odd == 1:
        return (order,)
    base = 4 * odd
    while order % base == 0:
        if _is_paley_one(base) or _is_paley_two(base) or (base == 4 * odd and odd in _WILLIAMSON):
            return (order // base, base)
        base *= 2
    for left in range(4, math.isqrt(order) + 1, 4):
        if order % left == 0 and left & (left - 1):
            left_factors, right_factors = _factors(left), _factors(order // left)
            if left_factors is not None and right_factors is not None:
                return left_factors + right_factors
    return None


@cache
def _construct(order: int) -> Tensor:
    """int8 [order, order] for a power of two or an order with a construction of its own."""
    if order & (order - 1) == 0:
        matrix = torch.ones(1, 1, dtype=torch.int8)
        while len(matrix) < order:
            matrix = torch.cat((torch.cat((matrix, matrix), dim=1), torch.cat((matrix, -matrix), dim=1)))
        return matrix
    if _is_paley_one(order):
        return _bordered(_jacobsthal(order - 1), -1) + torch.eye(order, dtype=torch.int8)
    if _is_paley_two(order):
        conference = _bordered(_jacobsthal(order // 2 - 1), 1)
        identity = torch.eye(order // 2, dtype=torch.int8)
        return torch.kron(conference, torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)) + torch.kron(
            identity, torch.tensor([[1, -1], [-1, -1]], dtype=torch.int8)
        )
    a, b, c, d = (_symmetric_circulant(order // 4, bits) for bits in _WILLIAMSON[order // 4])
    rows = ((a, b, c, d), (-b, a, -d, c), (-c, d, a, -b), (-d, -c, b, a))
    return torch.cat([torch.cat(row, dim=1) for row in rows])


def _is_paley_one(order: int) -> bool:
    return order % 4 == 0 and _prime_power(order - 1) is not None


def _is_paley_two(order: int) -> bool:
    return order % 4 == 0 and (order // 2 - 1) % 4 == 1 and _prime_power(order // 2 - 1) is not None


@cache
def _prime_power(number: int) -> tuple[int, int] | None:
    """(p, k) with number = p^k and p prime, or None."""
    if number < 2:
        return None
    prime = next((p for p in range(2, math.isqrt(number) + 1) if number % p == 0), number)
    exponent, cofactor = 0, number
    while cofactor % prime == 0:
        cofactor //= prime
        exponent += 1
    return (prime, exponent) if cofactor == 1 else None


def _bordered(core: Tensor, column_sign: int) -> Tensor:
    """[[0, 1], [column_sign, core]]."""
    matrix = torch.ones(len(core) + 1, len(core) + 1, dtype=torch.int8)
    matrix[0, 0] = 0
    matrix[1:, 0] = column_sign
    matrix[1:, 1:] = core
    return matrix


def _jacobsthal(field_size: int) -> Tensor:
    """int8 [q, q]: the quadratic character (0, 1 for squares, -1) of x - y for all x, y in the field of q elements.

    Element number sum of c_i p^i stands for the polynomial sum of c_i X^i over the integers modulo p.
    """
    power = _prime_power(field_size)
    assert power is not None, f"no field has {field_size} elements"
    prime, degree = power
    character = torch.zeros(field_size, dtype=torch.int8)
    powers = _powers_of_generator(prime, degree)
    character[powers[0::2]] = 1
    character[powers[1::2]] = -1
    numbers = torch.arange(field_size)
    difference = torch.zeros(field_size, field_size, dtype=torch.int64)
    for place in (prime**i for i in range(degree)):
        digits = numbers // place % prime
        difference += (digits[:, None] - digits) % prime * place
    return character[difference]


def _powers_of_generator(prime: int, degree: int) -> list[int]:
    """The numbers of 1, X, X^2, ... X^(q - 2) modulo the first monic polynomial for which these are all different.

    Then X generates every non-zero element, so the polynomial is irreducible and the even powers are the squares.
    """
    num_powers = prime**degree - 1
    one = (1,) + (degree - 1) * (0,)
    for tail in product(range(prime), repeat=degree):  # X^degree = tail[0] + tail[1] X + ...
        powers: list[int] = []
        element = one
        while len(powers) < num_powers:
            powers.append(sum(digit * prime**i for i, digit in enumerate(element)))
            top = element[-1]
            element = tuple((low + top * t) % prime for low, t in zip((0, *element[:-1]), tail, strict=True))
            if element == one:
                break
        # The first return to 1 comes after q - 1 steps: all q - 1 non-zero elements were met.
        if element == one and len(powers) == num_powers:
            return powers
    raise AssertionError(f"the field of {prime}^{degree} elements has a generator")


def _symmetric_circulant(order: int, bits: int) -> Tensor:
    """int8 [order, order] from the bits that `_WILLIAMSON` describes."""
    place = torch.arange(order)
    distance = torch.minimum(place, order - place)
    row = torch.ones(order, dtype=torch.int8)
    row[1:] -= 2 * (bits >> (distance[1:] - 1) & 1).to(torch.int8)
    return row[(place - place[:, None]) % order]
