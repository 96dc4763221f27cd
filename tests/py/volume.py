"""How much the Python tests do: `make check` takes a spread share of what covers by volume, and
`make check-long` (GRETA_WHOLE=1) all of it. What is asserted is the same in both.
"""
import os

WHOLE = os.environ.get("GRETA_WHOLE") == "1"


def sample(items, one_of):
    """All of them in make check-long, else a share that meets every kind."""
    return items if WHOLE else items[::one_of]


def either(whole, share):
    """A number or a list: of make check-long, and of make check."""
    return whole if WHOLE else share
