"""Functions of a script that start processes: a program for test_functions_and_multiprocessing.py.

    python multiprocessing_functions.py <config file> <alias>

It prints the values. The functions and classes are those of `__main__`.
"""

import concurrent.futures
import dataclasses
import enum
import functools
import multiprocessing
import pickle
import sys

from lazycluster import Runtime

OFFSET = 100
METHODS = ["fork", "spawn", "forkserver"]


class Planet(enum.Enum):
    """As in the documentation of `enum`."""

    EARTH = (5.976e24, 6.37814e6)
    MARS = (6.421e23, 3.3972e6)

    def __init__(self, mass, radius):
        self.mass = mass
        self.radius = radius


@dataclasses.dataclass
class Point:
    x: int
    y: int


class OwnError(Exception):
    pass


class Bare:
    pass


class Level(enum.Enum):
    HIGH = 1


def square(x):
    return x * x


def shifted(x):
    return square(x) + OFFSET


@functools.lru_cache
def cached(x):
    return x + 1


def mirrored(point):
    return Point(point.y, point.x), Planet.MARS


def fail(x):
    raise OwnError(x)


def pools(method):
    context = multiprocessing.get_context(method)
    found = []
    with context.Pool(2) as pool:
        found += [pool.map(shifted, [1, 2, 3]), pool.map(cached, [1]), pool.map(square, range(9))]
        found.append(pool.map(mirrored, [Point(1, 2)]))
        try:
            pool.map(fail, [5])
        except OwnError as error:
            found.append(error.args)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        found.append(list(executor.map(shifted, [4])))
    return found


def pool_of(method, _):
    multiprocessing.get_context(method).Pool(1)


if __name__ == "__main__":
    with Runtime(sys.argv[2], config_file=sys.argv[1]) as runtime:
        for method in METHODS:
            values = runtime.call(pools, method)
            points = values[3]
            assert points == [(Point(2, 1), Planet.MARS)], points
            assert points[0][1] is Planet.MARS
            print(method, values[:3], values[4:])
        # Their classes have no function, and with them nothing else of `__main__` travels.
        for value in (Bare(), Level.HIGH):
            assert type(pickle.loads(runtime.call(pickle.dumps, value))) is type(value)
        try:
            runtime.call(pool_of, "spawn", bytes(17 << 20))
        except RuntimeError as error:
            print(error)
