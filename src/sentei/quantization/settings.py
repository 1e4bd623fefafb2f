"""What the user said about single layers, by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from sentei.core.errors import SenteiError
from sentei.core.select import sublayers
from sentei.quantization.scheme import Custom, scheme_of


class Settings:
    """The scheme of each layer: that of the first name that fits, else the default.

    Attributes:
        default: The scheme of layers that are not named.
        own: From names (or regular expressions) to a scheme, or None: float. A name that begins
            with a slash is a whole path.
    """

    def __init__(self, default: Custom, layers: Mapping[str, Any] | None) -> None:
        """Reads what the user said.

        Args:
            default: The scheme of layers that are not named.
            layers: From names to a scheme, a scheme's name, or None.

        Raises:
            SenteiError: It is no such mapping.
        """
        if layers is not None and not isinstance(layers, Mapping):
            raise SenteiError(
                "`layers` must be a dict from a layer's name to None (float) or a scheme. "
                f"Received: {type(layers).__name__}."
            )
        self.default = default
        self.own = {
            name: None if given is None else scheme_of(given)
            for name, given in (layers or {}).items()
        }
        self.used: set[str] = set()

    def scheme_of(self, layer: Any, path: str) -> Custom | None:
        """A layer's scheme.

        Args:
            layer: The layer or operation; None for an input of the model.
            path: Its name with those of the models around it.
        """
        parts = path.split("/")
        names = {f"/{path}", *parts, *("/".join(parts[: n + 1]) for n in range(len(parts)))}
        if layer is None:
            return self.default
        for name, scheme in self.own.items():
            if name in names or any(re.fullmatch(name, own) for own in names):
                self.used.add(name)
                return scheme
        return self.default

    def check_used(self, model: Any) -> None:
        """Checks that every name fitted a layer.

        Args:
            model: The model they are about.

        Raises:
            SenteiError: One of them did not.
        """
        for name in sorted(self.own.keys() - self.used):
            known = sorted({layer.name for layer, _ in sublayers(model)} - {model.name})
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise SenteiError(
                f"`layers` names {name!r}, which fits no layer of model {model.name!r}.{hint} Its "
                f"layers: {', '.join(known)}."
            )
