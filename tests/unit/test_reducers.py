"""What travels by value from `__main__` behaves on the host as it does here."""

from __future__ import annotations

import contextvars
import functools
import queue
import sys
import textwrap
import threading
import types

import pytest

from lazycluster._functions.payload import dump_call
from lazycluster.exceptions import SerializationError
from support.bare_python import call_there

pytestmark = pytest.mark.every_python


@pytest.fixture
def main(tmp_path, monkeypatch):
    """Execute sources as `__main__`, and return that module."""

    def make(source):
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(source))
        module = types.ModuleType("__main__")
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, "__main__", module)
        exec(compile(path.read_text(), str(path), "exec", dont_inherit=True), vars(module))
        return module

    return make


def assert_same(module, *args):
    """Assert that `run` of a module returns there what it returns here."""
    there = call_there(module.run, *args)
    assert there == module.run(*args)
    return there


ENUMS = """
import dataclasses, enum, functools, operator

class Planet(enum.Enum):
    EARTH = (5.976e24, 6.37814e6)
    MARS = (6.421e23, 3.3972e6)
    TERRA = (5.976e24, 6.37814e6)
    def __init__(self, mass, radius):
        self.mass, self.radius = mass, radius
    @property
    def density(self):
        return self.mass / self.radius
    def other(self):
        return Planet.MARS if self is Planet.EARTH else Planet.EARTH

class Coordinate(bytes, enum.Enum):
    PX = (0, "P.X")
    PY = (1, "P.Y")
    def __new__(cls, value, label):
        made = bytes.__new__(cls, [value])
        made._value_, made.label = value, label
        return made

class Token(str, enum.Enum):
    def __new__(cls, value, text):
        made = str.__new__(cls, value)
        made._value_, made.text = value, text
        return made
    def __init__(self, value, text):
        self.both = value + text
    A = "a", "the a"

class Lower(enum.Enum):
    def _generate_next_value_(name, start, count, last_values):
        return name.lower()
    @classmethod
    def _missing_(cls, value):
        return cls(value.strip())

class Auto(Lower):
    ONE = enum.auto()
    TWO = enum.auto()
    EINS = ONE

class Permission(enum.Flag):
    R = enum.auto()
    W = enum.auto()
    X = enum.auto()
    RW = R | W
    NONE = 0

class Mode(enum.IntFlag):
    A = 1
    B = 4

@dataclasses.dataclass(frozen=True)
class Animal:
    size: str
    legs: int

class Creature(Animal, enum.Enum):
    BEETLE = "small", 6
    DOG = "medium", 4

class Pair(tuple, enum.Enum):
    A = 1, 2

class Operation(enum.Enum):
    ADD = (operator.add, 1)
    LIST = [1, 2]
    DICT = {"a": Planet.EARTH}
    def __call__(self, value):
        return self.value[0](self.value[1], value)
    @staticmethod
    def default():
        return Operation.ADD

Operation.LIST.later = "set later"
OPPOSITE = {Planet.EARTH: Planet.MARS}
Planet.EARTH.moon = Auto.ONE

def run():
    return (
        [(p.name, p.value, p.mass, p.radius, p.density, p.other().name) for p in Planet],
        list(Planet.__members__), Planet.TERRA is Planet.EARTH, Planet((6.421e23, 3.3972e6)).name,
        Planet.EARTH.moon is Auto.ONE, OPPOSITE[Planet["TERRA"]].name, repr(Planet.MARS),
        [(c.name, c.value, c.label, bytes(c)) for c in Coordinate], Coordinate(1).label,
        Token("a").text, Token.A.both, Token.A.upper(),
        [(a.name, a.value) for a in Auto], Auto.EINS is Auto.ONE, Auto(" two ").name,
        issubclass(Auto, Lower),
        [p.name for p in Permission], list(Permission.__members__),
        str(Permission.R | Permission.X),
        Permission.R | Permission.W is Permission.RW, (~Permission.R).value, Permission(5).value,
        bool(Permission.NONE), int(Mode.A | Mode.B), Mode(5).value,
        [(c.legs, c.size, c.name) for c in Creature], isinstance(Creature.DOG, Animal),
        Pair.A[1], Pair.A.value, Operation.ADD(2), Operation([1, 2]).later,
        Operation.default().name,
        Operation.DICT.value["a"] is Planet.EARTH, len(Operation),
    )

def give():
    return [Planet.TERRA, Coordinate.PY, Permission.RW, Operation.LIST]
"""


def test_enum_has_its_members_with_their_attributes(main):
    """With `__init__` and `__new__`, types mixed in, aliases, `auto`, flags, values of any type."""
    module = main(ENUMS)
    assert_same(module)


def test_member_is_the_same_on_both_sides(main):
    """As an argument and as a value."""
    module = main(ENUMS)
    given = module.give()
    assert call_there(lambda members: [member.name for member in members], given) == [
        "EARTH",
        "PY",
        "RW",
        "LIST",
    ]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")
def test_new_kinds_of_enums_travel(main):
    """Boundaries, members that are functions, what is not a member, StrEnum."""
    module = main(
        """
        import enum
        class Boundary(enum.Flag, boundary=enum.CONFORM):
            A = 1
            B = 2
        class Kept(enum.IntFlag, boundary=enum.KEEP):
            HIGH = 24
        class Name(enum.StrEnum):
            ONE = enum.auto()
        class Member(enum.Enum):
            @enum.member
            def double(x):
                return 2 * x
            other = enum.nonmember(3)
            Z = 1
        @enum.verify(enum.UNIQUE)
        class Number(enum.IntEnum):
            ONE = 1
            def __repr__(self):
                return "the one"
        def run():
            return (
                Boundary(7).value, Kept.HIGH.value, f"{Name.ONE}", [m.name for m in Member],
                Member.double.value(2), Member.other, repr(Number.ONE), Number.ONE + 1,
            )
        """
    )
    assert_same(module)


def test_enums_with_classes_of_their_own_travel(main):
    """Metaclasses with keyword arguments, hooks, and any type whose objects the members are."""
    module = main(
        """
        import datetime, decimal, enum, typing
        class Meta(enum.EnumMeta):
            @classmethod
            def __prepare__(mcs, name, bases, *, prefix=""):
                return super().__prepare__(name, bases)
            def __new__(mcs, name, bases, namespace, *, prefix):
                made = super().__new__(mcs, name, bases, namespace)
                made.prefix_ = prefix
                return made
            def __init__(cls, name, bases, namespace, *, prefix):
                pass
            def __getitem__(cls, name):
                return super().__getitem__(name.upper())
        class Prefixed(enum.Enum, metaclass=Meta, prefix="p"):
            A = 1
        class Hook:
            seen = []
            def __init_subclass__(cls, **kwargs):
                super().__init_subclass__(**kwargs)
                Hook.seen.append(cls.__name__)
        class Hooked(Hook, enum.Enum):
            A = 1
        class Day(datetime.date, enum.Enum):
            FIRST = 2020, 1, 2
        class Number(decimal.Decimal, enum.Enum):
            HALF = "0.5"
        class Point(typing.NamedTuple):
            x: int
            y: int
        class Corner(Point, enum.Enum):
            UPPER = 1, 2
        class Text(str):
            def __new__(cls, value, extra=None):
                made = super().__new__(cls, value)
                made.extra = extra
                return made
            def shout(self):
                return self.upper()
        class Word(Text, enum.Enum):
            A = "a"
        class Slots:
            __slots__ = ("cost",)
        class Priced(Slots, enum.Enum):
            A = 1
            def __init__(self, value):
                self.cost = 2 * value
        class Cross(enum.Enum):
            A = "a"
            B = lambda self: 1
            NAN = float("nan")
        Cross.A.friend, Cross.NAN.friend = Cross.NAN, Cross.A
        class Base(str, enum.Enum):
            def __str__(self):
                return self.value + "!"
        def run():
            class More(Base):
                B = "b"
            return (
                Prefixed["a"].value, Prefixed.prefix_, Hook.seen, Day.FIRST.isoformat(),
                Number.HALF + 1, Number(decimal.Decimal("0.5")).name,
                Corner.UPPER.x, Corner((1, 2)).name,
                Word.A.shout(), Word.A.extra, Word("a").name, Priced.A.cost,
                Cross.A.friend.friend is Cross.A, Cross.NAN.name, len(Cross), str(More.B),
            )
        """
    )
    assert_same(module)


def test_hooks_of_classes_do_not_run_again(main):
    """Their effects travel: registries, attributes. Keyword arguments are not needed again."""
    module = main(
        """
        import abc
        calls = []
        class Plugin:
            registry = {}
            def __init_subclass__(cls, *, name, **kwargs):
                super().__init_subclass__(**kwargs)
                cls.registry[name] = cls
                cls.plugin_name = name
                calls.append(name)
        class A(Plugin, name="a"):
            pass
        class B(A, name="b"):
            def hello(self):
                return super().__thisclass__ is B
        class Meta(abc.ABCMeta):
            made = []
            @classmethod
            def __prepare__(mcs, name, bases, **kwargs):
                return {"prepared": True}
            def __new__(mcs, name, bases, namespace, *, tag):
                if "must" not in namespace:
                    raise TypeError("must is missing")
                made = super().__new__(mcs, name, bases, namespace)
                made.tag = tag
                mcs.made.append(name)
                return made
            def __init__(cls, name, bases, namespace, *, tag):
                super().__init__(name, bases, namespace)
                cls.initialized = tag
            def __setattr__(cls, name, value):
                if name == "fixed":
                    raise AttributeError(name)
                super().__setattr__(name, value)
            def __call__(cls, *args):
                made = super().__call__(*args)
                made.called = True
                return made
        class C(metaclass=Meta, tag="c"):
            must = 1
            fixed = 3
            @abc.abstractmethod
            def f(self): ...
        class D(C, tag="d"):
            must = 2
            def f(self):
                return "f"
        @C.register
        class Virtual:
            pass
        class Field:
            def __set_name__(self, owner, name):
                self.name = name
                owner.fields = [*getattr(owner, "fields", []), name]
            def __get__(self, instance, owner):
                return self if instance is None else instance.__dict__.get(self.name, "unset")
        class Form:
            x = Field()
            y = Field()
        def run():
            try:
                C()
                abstract = False
            except TypeError:
                abstract = True
            return (
                sorted(Plugin.registry), Plugin.registry["b"] is B, A.plugin_name, calls,
                B().hello(), Meta.made, D.tag, D.initialized, D().called, D.prepared, D.fixed,
                abstract, issubclass(Virtual, C), issubclass(int, C), D().f(), Form.fields,
                Form.x.name, Form().y,
            )
        """
    )
    assert_same(module)


def test_base_on_the_host_may_want_keyword_arguments(main):
    """No class keeps them, so the hook cannot run as it did here."""
    module = main(
        """
        import functools
        class Base:
            def __init_subclass__(cls, *, key):
                cls.key = key
        Base.__module__ = "lc_elsewhere"
        class Made(Base, key=3):
            pass
        def run():
            return Made.key, Made.__name__
        """
    )
    assert_same(module)


def test_classes_of_typing_travel(main):
    """Generics, protocols, named tuples, typed dictionaries; each derived from another as well."""
    module = main(
        """
        import dataclasses, typing
        from typing import *
        T = TypeVar("T")
        N = TypeVar("N", int, float)
        C = TypeVar("C", covariant=True, bound="Box")
        class Box(Generic[T]):
            def __init__(self, content: T):
                self.content = content
        class Integers(Box[int]):
            pass
        class Registry(Generic[TypeVar("K")]):
            known = {}
            def __init_subclass__(cls, key, **kwargs):
                super().__init_subclass__(**kwargs)
                cls.known[key] = cls
        class Known(Registry[int], key="known"):
            pass
        class Both(Box[T], Dict[str, T]):
            pass
        class Typed(TypedDict, total=False):
            a: int
        class Derived(Typed):
            b: List[str]
        class Pair(NamedTuple):
            a: int
            b: str = "b"
            def both(self):
                return f"{self.a}{self.b}"
        @runtime_checkable
        class Named(Protocol):
            name: str
        class Own(Protocol[T]):
            def get(self) -> T: ...
        class Thing:
            name = "thing"
        Number = NewType("Number", int)
        def run():
            return (
                Box[int](3).content, Box.__parameters__ == (T,),
                Integers.__orig_bases__ == (Box[int],),
                Registry.known["known"] is Known, Known.__orig_bases__ == (Registry[int],),
                Both.__parameters__ == (T,), str(Box[str]), isinstance(Integers(2), Box),
                N.__constraints__, C.__covariant__, C.__bound__.__forward_arg__, T.__module__,
                Derived(b=[]), sorted(Derived.__required_keys__), sorted(Derived.__optional_keys__),
                Pair(1).both(), Pair(1)._replace(b="c").b, Pair._field_defaults,
                isinstance(Thing(), Named), isinstance(3, Named), Own.__parameters__ == (T,),
                Number(3), Number.__name__,
            )
        """
    )
    assert_same(module)


@pytest.mark.skipif(sys.version_info < (3, 10), reason="new in Python 3.10")
def test_parameter_specifications_travel(main):
    """And TypeVarTuple from Python 3.11 on."""
    module = main(
        """
        import sys
        from typing import *
        P = ParamSpec("P")
        R = TypeVar("R")
        class Wrapped(Generic[P, R]):
            def __init__(self, function: Callable[P, R]):
                self.function = function
            def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
                return self.function(*args, **kwargs)
        if sys.version_info >= (3, 11):
            Ts = TypeVarTuple("Ts")
            class Array(Generic[Unpack[Ts]]):
                pass
        else:
            Array = Wrapped
        def run():
            return (
                Wrapped(len)("abc"), Wrapped.__parameters__ == (P, R), P.args.__origin__ is P,
                P.__module__, len(Array.__parameters__),
            )
        """
    )
    assert_same(module)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new in Python 3.12")
def test_type_parameters_and_aliases_travel(main):
    """Also those that refer to themselves, and those whose bound cannot be evaluated."""
    module = main(
        """
        from typing import *
        type Vector = list[float]
        type Tree[X] = X | list[Tree[X]]
        type Cases[A: (int, str), B: Stack] = dict[A, B] | Cases[A, B]
        type Lazy[X: Undefined] = list[X]
        def first[X](items: list[X]) -> X:
            return items[0]
        def call[**P, R](function: Callable[P, R], *args: P.args) -> R:
            return function(*args)
        def many[*Ts](*args: *Ts) -> tuple[*Ts]:
            return args
        def lazy[X: Undefined](x: X) -> X:
            return x
        class Stack[X]:
            def push[Y: Stack](self, item: Y) -> Y:
                return item
        class Node[N: Node]:
            pass
        class Integers(Stack[int]):
            pass
        def run():
            tree = Tree.__value__.__args__[1].__args__[0]
            return (
                Vector.__name__, str(Vector.__value__), Vector.__module__, str(Tree[int]),
                tree.__origin__ is Tree, tree.__args__ == Tree.__type_params__,
                Cases.__type_params__[0].__constraints__,
                Cases.__type_params__[1].__bound__ is Stack,
                Lazy.__name__, first([1]), first.__type_params__[0].__name__, call(len, "abc"),
                [type(each).__name__ for each in call.__type_params__], many(1, 2), lazy(1),
                type(many.__type_params__[0]).__name__, Stack[int]().push(2),
                Stack.__type_params__ == Stack.__parameters__,
                Stack.push.__type_params__[0].__bound__ is Stack,
                Node.__type_params__[0].__bound__ is Node, Integers().push(3),
                str(first.__annotations__["return"]),
            )
        """
    )
    assert_same(module)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in Python 3.13")
def test_defaults_of_type_parameters_travel(main):
    """Of all kinds of parameters; a deprecated function or class travels as well."""
    module = main(
        """
        import warnings
        from typing import *
        D = TypeVar("D", default=int)
        N = TypeVar("N", default=None)
        class Default[X = int, **P = [int]]:
            pass
        def variadic[*Ts = *tuple[int, str]](*args: *Ts):
            pass
        type Pair[A = int, *B = *tuple[int, str]] = tuple[A, *B] | Pair[A]
        @warnings.deprecated("old")
        def old():
            return 1
        @warnings.deprecated("old")
        class Old:
            pass
        def run():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                called = old(), isinstance(Old(), Old)
            return (
                D.__default__, N.has_default(), N.__default__,
                [str(each.__default__) for each in Default.__type_params__],
                str(variadic.__type_params__[0].__default__),
                [str(each.__default__) for each in Pair.__type_params__], called,
            )
        """
    )
    assert_same(module)


def test_generic_functions_travel_with_their_implementations(main):
    """Of singledispatch and singledispatchmethod; more can be registered on the host."""
    module = main(
        """
        import abc, functools
        class Own:
            pass
        class Shape(abc.ABC):
            pass
        @functools.singledispatch
        def kind(value):
            "Say what it is."
            return "object"
        @kind.register(int)
        def _(value):
            return "int"
        @kind.register
        def _(value: list):
            return [kind(each) for each in value]
        @kind.register(Own)
        @kind.register(Shape)
        def own(value):
            return "own"
        kind.extra = 3
        class Visitor:
            @functools.singledispatchmethod
            def visit(self, value):
                return "object"
            @visit.register(int)
            def _(self, value):
                return type(self).__name__
        def run():
            local = functools.singledispatch(lambda value: "other")
            return (
                kind(1), kind([1, "a"]), kind(Own()), kind(None), kind(True), kind.__name__,
                kind.__doc__, kind.extra, kind.__wrapped__(1), len(kind.registry),
                own is kind.dispatch(Own), Visitor().visit(1), Visitor().visit("a"), local(1),
            )
        def more():
            @kind.register(str)
            def _(value):
                return "str"
            return kind("a")
        """
    )
    assert_same(module)
    assert call_there(module.more) == "str"


def test_wrapped_functions_and_descriptors_travel(main):
    """Caches, partial methods, cached properties, context managers, classes of descriptors."""
    module = main(
        """
        import contextlib, functools
        @functools.lru_cache(maxsize=3, typed=True)
        def cached(n):
            "Its text."
            return n if n < 2 else cached(n - 1) + cached(n - 2)
        cached.extra = 5
        class classproperty(property):
            def __init__(self, getter, tag=1):
                super().__init__(getter)
                self.tag = tag
            def __get__(self, instance, owner):
                return self.fget(owner)
        class tagged(staticmethod):
            tag = 2
        class Own:
            calls = 0
            @functools.cached_property
            def once(self):
                Own.calls += 1
                return Own.calls
            @functools.lru_cache
            def method(self, x):
                return 2 * x
            @staticmethod
            @functools.lru_cache
            def plain(x):
                return x
            @classproperty
            def name(cls):
                return cls.__name__
            two = functools.partialmethod(method, 1)
            tag = tagged(lambda: 3)
            @property
            def x(self):
                "Text of x."
                return 1
            @x.setter
            def x(self, value):
                self.set = value
        @contextlib.contextmanager
        def manager(x):
            yield x
        def generator(n):
            yield from range(n)
        def run():
            own = Own()
            own.x = 4
            with manager(3) as entered:
                pass
            return (
                cached(10), cached.cache_info().maxsize, cached.__doc__, cached.extra,
                cached.__wrapped__(1), own.once, own.once, own.method(2), own.two(), Own.plain(1),
                Own.name, vars(Own)["name"].tag, Own.tag(), vars(Own)["tag"].tag, Own.x.__doc__,
                own.x, own.set, entered, list(generator(2)),
            )
        """
    )
    assert_same(module)


def test_classes_with_slots_travel(main):
    """Slots of all kinds, with weak references, of dataclasses."""
    module = main(
        """
        import dataclasses, sys, weakref
        class Slots:
            __slots__ = ("a", "__private", "__weakref__")
            def __init__(self):
                self.a, self.__private = 1, 2
            def private(self):
                return self.__private
        class Child(Slots):
            __slots__ = "c"
        class Documented:
            __slots__ = {"a": "Text of a."}
        class Open:
            __slots__ = ("a", "__dict__")
        class Empty(tuple):
            __slots__ = ()
        options = {"slots": True, "kw_only": True} if sys.version_info >= (3, 10) else {}
        @dataclasses.dataclass(**options)
        class Data:
            a: int
            b: list = dataclasses.field(default_factory=list, metadata={"m": 1})
            c: dataclasses.InitVar[int] = 5
            def __post_init__(self, c):
                self.b.append(c)
        @dataclasses.dataclass(frozen=True, order=True)
        class Frozen:
            a: int
        def run():
            slots, child, open_ = Slots(), Child(), Open()
            child.c = open_.a = open_.b = 3
            try:
                Frozen(1).a = 2
                frozen = False
            except dataclasses.FrozenInstanceError:
                frozen = True
            fields = dataclasses.fields(Data)
            return (
                slots.private(), hasattr(slots, "__dict__"), weakref.ref(slots)() is slots,
                child.private(), hasattr(child, "__dict__"), Documented.__slots__, vars(open_),
                hasattr(Empty(), "__dict__"),
                dataclasses.asdict(Data(a=1)), [field.name for field in fields],
                fields[0].default is dataclasses.MISSING, fields[1].metadata["m"],
                getattr(fields[0], "kw_only", None), hasattr(Data(a=1), "__dict__"), frozen,
                Frozen(1) < Frozen(2), dataclasses.replace(Data(a=1), a=2, c=1).a,
            )
        """
    )
    assert_same(module)


def test_what_modules_and_classes_hold_is_new_on_the_host(main):
    """Locks, queues, context variables: not locked and empty, as in a new process."""
    module = main(
        """
        import contextvars, queue, threading
        LOCK, RLOCK, CONDITION = threading.Lock(), threading.RLock(), threading.Condition()
        EVENT, SEMAPHORE, BARRIER = threading.Event(), threading.Semaphore(2), threading.Barrier(1)
        QUEUE, SIMPLE = queue.Queue(maxsize=3), queue.SimpleQueue()
        VARIABLE = contextvars.ContextVar("VARIABLE", default=7)
        BARE = contextvars.ContextVar("BARE")
        LOCAL = threading.local()
        LOCAL.x = 1
        class Local(threading.local):
            def __init__(self, x=3):
                self.x = x
        OWN = Local(4)
        class Cache:
            lock = threading.Lock()
            variable = contextvars.ContextVar("inner", default=1)
            def __init__(self):
                self._lock = threading.RLock()
                self.data = {"a": 1}
            def get(self, key):
                with self._lock, self.lock:
                    return self.data[key]
        CACHE = Cache()
        def synchronized(function):
            lock = threading.Lock()
            def wrapper(*args):
                with lock:
                    return function(*args), lock.locked()
            return wrapper
        @synchronized
        def guarded(x):
            return x
        def shares():
            return LOCK.acquire(blocking=False)
        def run():
            with CONDITION, SEMAPHORE, RLOCK:
                QUEUE.put(1)
                SIMPLE.put(2)
            with LOCK:
                shared = shares()
            return (
                shared, LOCK.locked(), EVENT.is_set(), BARRIER.wait(), QUEUE.get(), QUEUE.maxsize,
                SIMPLE.get(), VARIABLE.get(), VARIABLE.name, BARE.get("none"), OWN.x,
                CACHE.get("a"), Cache.variable.get(), guarded(1),
            )
        def local():
            return hasattr(LOCAL, "x")
        """
    )
    token = module.VARIABLE.set(8)
    module.LOCK.acquire()
    there = call_there(module.run)
    module.LOCK.release()
    module.VARIABLE.reset(token)
    assert there == module.run()
    assert call_there(module.local) is False
    assert call_there(module.guarded, 2) == (2, True)


def test_module_by_value_and_local_class_have_new_locks():
    """A class that was made in a function holds them as well."""

    class Own:
        lock = threading.Lock()

    def run():
        with Own.lock:
            return Own.lock.locked()

    assert call_there(run) is True


@pytest.mark.parametrize(
    "value",
    [
        threading.Lock(),
        threading.RLock(),
        threading.Condition(),
        threading.local(),
        contextvars.ContextVar("a"),
        queue.Queue(),
        queue.SimpleQueue(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_lock_that_is_an_argument_is_refused(value):
    """It would be another lock than the caller's; so it is in a closure."""

    def closure():
        return value

    with pytest.raises(SerializationError, match="positional argument 1"):
        dump_call(repr, (value,), {})
    with pytest.raises(SerializationError, match="function `closure`"):
        dump_call(closure, (), {})
    with pytest.raises(SerializationError, match="function"):
        dump_call(functools.partial(repr, value), (), {})


def test_weak_containers_travel_with_what_lives(main):
    """At the level of a module and of a class."""
    module = main(
        """
        import weakref
        class Tracked:
            living = weakref.WeakSet()
            by_name = weakref.WeakValueDictionary()
            def __init__(self, name):
                self.name = name
                self.living.add(self)
                self.by_name[name] = self
                NUMBERS[self] = len(self.living)
        NUMBERS = weakref.WeakKeyDictionary()
        ONE = Tracked("one")
        Tracked("gone")
        def run():
            two = Tracked("two")
            found = ONE.by_name["one"] is ONE, sorted(Tracked.by_name), sorted(NUMBERS.values())
            del two
            return found, len(Tracked.living), len(NUMBERS)
        """
    )
    assert_same(module)


ANNOTATED = """
from __future__ import annotations
import dataclasses, typing
from typing import Optional
from collections import OrderedDict
if typing.TYPE_CHECKING:
    from nowhere import Missing
class Later:
    pass
Alias = typing.Dict[str, int]
UNPICKLABLE = (each for each in ())
class Holder:
    later: Later
    alias: typing.List[Alias]
    quoted: "typing.Optional['Later']"
    def method(self, later: Later) -> OrderedDict[str, Later]:
        return later
@dataclasses.dataclass
class Data:
    later: Optional[Later] = None
class Pair(typing.NamedTuple):
    a: Later
class Typed(typing.TypedDict):
    a: Later
def annotated(later: Later, *more: Alias) -> typing.Optional[Later]:
    return later
def hints():
    import typing
    return [typing.get_type_hints(each) for each in (Holder, Data, Pair, Typed, annotated)]
def run():
    return repr(hints()), repr(typing.get_type_hints(Holder.method))
def missing(x: Missing) -> int:
    return x
def unpicklable(x: UNPICKLABLE, y: Later) -> UNPICKLABLE:
    return x, sorted(typing.get_type_hints(only_later))
def only_later(y: Later): ...
"""


def test_names_in_annotations_travel(main):
    """`typing.get_type_hints` works on the host, for functions and classes."""
    module = main(ANNOTATED)
    assert_same(module)


def test_names_in_annotations_that_cannot_travel_are_left_out(main):
    """Nothing but the annotation needs them."""
    module = main(ANNOTATED)
    assert call_there(module.missing, 1) == 1
    assert call_there(module.unpicklable, 1, 2) == (1, ["y"])
