"""What a session is given, put in order and checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from wenable.runtime.bundle import Bundle
from wenable.runtime.graph import TensorType
from wenable.runtime.images import prepare_pixels
from wenable.runtime.index_limits import outside
from wenable.runtime.sized import Shapes, shapes_of

_Wanted = list[tuple[str, np.dtype[Any], tuple[Any, ...]]]
"""Name, type and shape without the batch of each input."""


class SessionInputs:
    """The inputs of a bundle.

    - `bundles`: the bundle at each of its sizes of images, that of the example first.
    """

    def __init__(self, bundles: Sequence[Bundle]) -> None:
        self._bundles = tuple(bundles)
        self._place_of: dict[Shapes, int] = {shapes_of(each): i for i, each in enumerate(bundles)}
        self._wanted = [_wanted(each.inputs) for each in bundles]
        self._wanted_of = [
            [_wanted(each.inputs_of(number)) for number in range(len(each.modes))]
            for each in bundles
        ]
        self._rows = bundles[0].index_limits

    def given(self, x: Any) -> tuple[Any, ...]:
        """Return the inputs in the order of the network's; images in bytes as the network takes them.

        Raises `ValueError` for a dict of other names, and images that nobody says how to prepare.
        """
        x = self._prepared_images(x)
        if not isinstance(x, Mapping):
            several = isinstance(x, list) and len(self._wanted[0]) > 1
            return tuple(x) if several or isinstance(x, tuple) else (x,)
        names = [name for name, *_ in self._wanted[0]]
        for name in (*x, *names):
            if name not in names or name not in x:
                what = "names" if name in x else "lacks"
                allowed = ", ".join(map(repr, names))
                raise ValueError(f"`x` {what} {name!r}; the network's inputs are {allowed}")
        return tuple(x[name] for name in names)

    def place_of(self, given: tuple[Any, ...]) -> int:
        """Return which of the sizes of images inputs have; the first where it is none of them."""
        if len(self._place_of) == 1:
            return 0
        return self._place_of.get(tuple(tuple(getattr(each, "shape", ())[1:]) for each in given), 0)

    def checked(
        self, given: tuple[Any, ...], number: int | None, place: int = 0
    ) -> Mapping[str, np.ndarray]:
        """Return the inputs by name: of the network's sizes, or of those of mode `number`.

        - `place`: which of the sizes of images they have.

        Raises `ValueError` for inputs of another number, type or shape, for unlike numbers of
        examples, for NaN or infinity, and for indices of rows that a table has not;
        `BundleError` for a batch that the graph cannot bear.
        """
        whole = self._wanted[place]
        own = whole if number is None else self._wanted_of[place][number]
        if len(given) != len(whole):
            raise ValueError(f"`x` must be {len(whole)} arrays, not {len(given)}")
        found: dict[str, np.ndarray] = {}
        for array, (name, dtype, shape), (*_, smaller) in zip(given, whole, own, strict=True):
            what = f"`x[{name!r}]`" if len(whole) > 1 else "`x`"
            masked = isinstance(array, np.ma.MaskedArray)
            if isinstance(array, list) and all(isinstance(each, np.ndarray) for each in array):
                kinds = {str(getattr(each, "dtype", type(each).__name__)) for each in array}
                words = ", ".join(sorted(kinds))
                raise ValueError(
                    f"{what} (list of {words}) must be one array; use np.stack: only images in bytes"
                    " (uint8) may be a list"
                )
            if not isinstance(array, np.ndarray) or array.dtype != dtype or masked:
                kind = "masked" if masked else getattr(array, "dtype", type(array).__name__)
                raise ValueError(f"{what} ({kind}) must be a numpy array of {dtype}")
            if array.shape[1:] not in (shape, smaller) or not array.ndim or not len(array):
                raise ValueError(
                    f"{what} (of shape {array.shape}) must have shape"
                    f" {self._shapes_of(name, shape, smaller)}, N above 0"
                )
            if array.dtype.kind == "f" and not _is_finite(array):
                raise ValueError(f"{what} holds NaN or infinity")
            rows = self._rows.get(name)
            wrong = None if rows is None else outside(array, rows)
            if wrong is not None:
                raise ValueError(
                    f"{what} holds {wrong}, and the network looks it up in a table of {rows} rows"
                )
            found[name] = array
        if len({len(array) for array in given}) > 1:
            counts = ", ".join(f"{len(array)} in {name!r}" for name, array in found.items())
            raise ValueError(f"`x` holds unlike numbers of examples: {counts}")
        self._bundles[place].check_batch(len(given[0]))
        return found

    def _shapes_of(self, name: str, *known: tuple[Any, ...]) -> str:
        """Return the shapes that an input may have, as text."""
        others = [shape for each in self._wanted for own, _, shape in each if own == name]
        return " or ".join(
            f"({', '.join(map(str, ('N', *each)))})" for each in dict.fromkeys((*known, *others))
        )

    def _prepared_images(self, x: Any) -> Any:
        """Return the input of the network for images in bytes; whatever else is given as it is."""
        if isinstance(x, list):
            pixels = not x or any(getattr(each, "dtype", None) == np.uint8 for each in x)
        else:
            pixels = isinstance(x, np.ndarray) and x.dtype == np.uint8
        wanted = self._wanted[0]
        if not pixels or len(wanted) != 1 or wanted[0][1] != np.float32:
            return x
        preprocessing = self._bundles[0].preprocessing
        if preprocessing is None:
            raise ValueError(
                "`x` holds images in bytes, and the bundle does not say how they are prepared: set"
                " `preprocessing` of the network before it is exported, or prepare them"
            )
        return prepare_pixels(x, preprocessing)


def _wanted(inputs: Iterable[TensorType]) -> _Wanted:
    return [(each.name, np.dtype(each.dtype), tuple(each.shape[1:])) for each in inputs]


def _is_finite(array: np.ndarray) -> bool:
    """Say whether all values are finite; a sum, which is fast, tells it of nearly every array."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())
