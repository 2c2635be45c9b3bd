"""A function of numbers as data: traced once, differentiated, evaluated where Python is not.

Tracing calls the function with symbols in place of tensors. What it does to them becomes code, a
list of operations on values that came before; the same function goes on working on tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from torch import Tensor

from ode_core import ArgumentError

Operation: TypeAlias = tuple[Any, ...]
"""A name and the places of the values that go in; of a "number" the number itself."""

UNARY = ("neg", "sin", "cos", "exp", "log", "sqrt", "tanh", "sigmoid", "softplus", "abs", "sign")
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum", "pow", "gt", "ge")
OPERATIONS = (*UNARY, *BINARY, "where", "number")
_SAME = {
    "negative": "neg", "rsub": "rsub", "true_divide": "div", "divide": "div", "multiply": "mul",
    "subtract": "sub", "absolute": "abs", "clamp_min": "maximum", "clamp_max": "minimum",
    "max": "maximum", "min": "minimum", "greater": "gt", "less": "lt", "greater_equal": "ge",
    "less_equal": "le",
}  # fmt: skip


@dataclass(frozen=True)
class Expression:
    """Code of a function of `given` values, and the places of its results among all values."""

    given: int
    code: tuple[Operation, ...]
    outputs: tuple[int, ...]

    @property
    def columns(self) -> tuple[tuple[Any, ...], ...]:
        """The code as flat tuples: places in `OPERATIONS`, three operands, numbers; and outputs."""
        names = tuple(OPERATIONS.index(name) for name, *_ in self.code)
        numbers = tuple(rest[0] if name == "number" else 0.0 for name, *rest in self.code)
        places = [() if name == "number" else rest for name, *rest in self.code]
        operands = [tuple(p[i] if i < len(p) else 0 for p in places) for i in range(3)]
        return (names, *operands, numbers, self.outputs)


class Trace:
    """The code that was met so far; equal operations are one."""

    def __init__(self, given: int) -> None:
        self.given = given
        self.code: list[Operation] = []
        self._known: dict[Operation, int] = {}

    def symbols(self) -> list[Symbol]:
        """Return what stands for the values given."""
        return [Symbol(self, place) for place in range(self.given)]

    def add(self, *operation: Any) -> Symbol:
        """Return what an operation, on places, gives."""
        # True and 1.0 are equal, and hash alike; a number's type is not part of an operation.
        place = self._known.get(operation)
        if place is None:
            place = self._known[operation] = self.given + len(self.code)
            self.code.append(operation)
        return Symbol(self, place)

    def number(self, x: Any) -> Symbol:
        """Return a symbol for a number, or the symbol itself.

        Raises ArgumentError for a tensor, which is to be a parameter of the field.
        """
        if isinstance(x, Symbol):
            return x
        if isinstance(x, Tensor) or not isinstance(x, int | float):
            raise ArgumentError(
                f"an expression is made of numbers, its arguments and its parameters; got {x!r:.60}"
                ": hand tensors to the field as named parameters"
            )
        return self.add("number", float(x))


@dataclass(frozen=True, eq=False)
class Symbol:
    """One value of a traced function."""

    trace: Trace
    place: int

    def _do(self, name: str, *others: Any) -> Symbol:
        places = [self.trace.number(other).place for other in others]
        return self.trace.add(name, self.place, *places)

    def __neg__(self) -> Symbol:
        return self._do("neg")

    def __abs__(self) -> Symbol:
        return self._do("abs")

    def __add__(self, other: Any) -> Symbol:
        return self._do("add", other)

    def __sub__(self, other: Any) -> Symbol:
        return self._do("sub", other)

    def __mul__(self, other: Any) -> Symbol:
        return self._do("mul", other)

    def __truediv__(self, other: Any) -> Symbol:
        return self._do("div", other)

    def __radd__(self, other: Any) -> Symbol:
        return self.trace.number(other) + self

    def __rsub__(self, other: Any) -> Symbol:
        return self.trace.number(other) - self

    def __rmul__(self, other: Any) -> Symbol:
        return self.trace.number(other) * self

    def __rtruediv__(self, other: Any) -> Symbol:
        return self.trace.number(other) / self

    def __pow__(self, other: Any) -> Symbol:
        """Whole powers up to 8 are products; others, like those of a tensor, of no negative."""
        if isinstance(other, int | float) and float(other).is_integer() and abs(other) <= 8:
            return _power(self, int(other))
        return self._do("pow", other)

    def __rpow__(self, other: Any) -> Symbol:
        return self.trace.number(other) ** self

    def __gt__(self, other: Any) -> Symbol:
        return self._do("gt", other)

    def __ge__(self, other: Any) -> Symbol:
        return self._do("ge", other)

    def __lt__(self, other: Any) -> Symbol:
        return self.trace.number(other) > self

    def __le__(self, other: Any) -> Symbol:
        return self.trace.number(other) >= self

    def __bool__(self) -> bool:
        raise ArgumentError(
            "an expression cannot branch on a value; choose between two with torch.where"
        )

    def __iter__(self) -> Any:
        raise ArgumentError(
            "an expression of one entry has no parts; give the field size= for several"
        )

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *others, **named: _called(name, (self, *others), named)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Do what a torch function does to tensors."""
        del types
        return _called(getattr(func, "__name__", repr(func)), args, kwargs or {})


def _called(name: str, args: Sequence[Any], named: dict[str, Any]) -> Symbol:
    trace = next(x for x in (*args, *named.values()) if isinstance(x, Symbol)).trace
    name = _SAME.get(name, name).strip("_")
    if not named and len(args) == 1 and name in UNARY:
        return trace.number(args[0])._do(name)
    if not named and len(args) == 2 and (name in BINARY or name in ("lt", "le", "rsub")):
        a, b = map(trace.number, args)
        if name in ("lt", "le", "rsub"):
            a, b, name = b, a, {"lt": "gt", "le": "ge", "rsub": "sub"}[name]
        # A power knows whether its exponent is a whole number.
        return a ** args[1] if name == "pow" else a._do(name, b)
    if not named and len(args) == 3 and name == "where":
        condition, yes, no = map(trace.number, args)
        return condition._do("where", yes, no)
    more = {"relu": lambda x: x._do("maximum", 0.0), "square": lambda x: x * x,
            "silu": lambda x: x * x._do("sigmoid"), "reciprocal": lambda x: 1.0 / x,
            "rsqrt": lambda x: 1.0 / x._do("sqrt")}  # fmt: skip
    if name in more and args:
        # `torch.nn.functional` hands on inplace=False.
        return trace.number(more[name](args[0]))
    if name == "softplus" and args and named.get("beta", 1) == 1:
        return trace.number(args[0])._do("softplus")
    raise ArgumentError(
        f"an expression knows no {name!r} of these arguments; it knows + - * / ** and comparisons, "
        f"where, {', '.join((*UNARY[1:], *BINARY[4:6], *more))}"
    )


def _power(x: Symbol, exponent: int) -> Symbol:
    if exponent < 0:
        return x.trace.number(1.0) / _power(x, -exponent)
    if exponent == 0:
        return x.trace.number(1.0)
    half = _power(x, exponent // 2)
    if exponent == 1:
        return x
    return half * half * x if exponent % 2 else half * half


@lru_cache(maxsize=64)
def traced(
    function: Callable[..., Any], size: int | None, names: tuple[str, ...]
) -> tuple[Expression, Expression]:
    """Return the code of f(t, y, **parameters), and that of its transpose.

    With `size` y is a tuple of so many values and so is the result; without, both are one. The
    transpose is given the gradients of the results as well, and gives those of y and of the
    parameters. Raises ArgumentError for what has no code.
    """
    count = size or 1
    trace = Trace(1 + count + len(names))
    t, *rest = trace.symbols()
    parameters = dict(zip(names, rest[count:], strict=True))
    found = function(t, rest[0] if size is None else tuple(rest[:count]), **parameters)
    results = (found,) if size is None else tuple(found)
    if len(results) != count:
        raise ArgumentError(f"the field has size {count}, but its function returned {len(results)}")
    outputs = [trace.number(x).place for x in results]
    forward = Expression(trace.given, tuple(trace.code), tuple(outputs))
    return forward, _transposed(forward, count)


def _transposed(forward: Expression, count: int) -> Expression:
    given = forward.given
    trace = Trace(given + count)
    values = trace.symbols()
    grads = values[given:]
    del values[given:]
    for name, *places in forward.code:
        if name == "number":
            values.append(trace.add(name, *places))
        else:
            values.append(trace.add(name, *(values[place].place for place in places)))
    total: list[Symbol | None] = [None] * len(values)
    for place, given_ in zip(forward.outputs, grads, strict=True):
        total[place] = _sum(total[place], given_)
    for at in range(len(values) - 1, given - 1, -1):
        grad, (name, *places) = total[at], forward.code[at - given]
        if grad is None or name == "number":
            continue
        found = _PULLS[name](grad, values[at], *(values[place] for place in places))
        for place, part in zip(places, found, strict=True):
            if part is not None:
                total[place] = _sum(total[place], part)
    # The time's gradient is along f, and added elsewhere.
    wanted = [x if x is not None else trace.number(0.0) for x in total[1:given]]
    return Expression(trace.given, tuple(trace.code), tuple(x.place for x in wanted))


def _sum(a: Symbol | None, b: Symbol) -> Symbol:
    return b if a is None else a + b


def _larger(g: Symbol, a: Symbol, b: Symbol) -> tuple[Symbol, Symbol]:
    # Of two equal ones each gets half, as in torch.
    share = ((a > b) + (a >= b)) * 0.5
    return g * share, g * (1.0 - share)


_PULLS: dict[str, Callable[..., Sequence[Symbol | None]]] = {
    "neg": lambda g, y, a: (-g,),
    "sin": lambda g, y, a: (g * a._do("cos"),),
    "cos": lambda g, y, a: (-g * a._do("sin"),),
    "exp": lambda g, y, a: (g * y,),
    "log": lambda g, y, a: (g / a,),
    "sqrt": lambda g, y, a: (g * 0.5 / y,),
    "tanh": lambda g, y, a: (g * (1.0 - y * y),),
    "sigmoid": lambda g, y, a: (g * y * (1.0 - y),),
    "softplus": lambda g, y, a: (g * (a > 20.0)._do("where", 1.0, a._do("sigmoid")),),
    "abs": lambda g, y, a: (g * a._do("sign"),),
    "sign": lambda g, y, a: (None,),
    "add": lambda g, y, a, b: (g, g),
    "sub": lambda g, y, a, b: (g, -g),
    "mul": lambda g, y, a, b: (g * b, g * a),
    "div": lambda g, y, a, b: (g / b, -g * y / b),
    "maximum": lambda g, y, a, b: _larger(g, a, b),
    "minimum": lambda g, y, a, b: _larger(g, b, a),
    "pow": lambda g, y, a, b: (g * b * y / a, g * y * a._do("log")),
    "gt": lambda g, y, a, b: (None, None),
    "ge": lambda g, y, a, b: (None, None),
    "where": lambda g, y, c, a, b: (
        None,
        c._do("where", g, 0.0),
        c._do("where", 0.0, g),
    ),
}
