"""What the user said about single layers, by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sentei.core.errors import SenteiError, UnsupportedModel
from sentei.core.graph import Node
from sentei.core.select import sublayers
from sentei.quantization.own_code import OwnCode
from sentei.quantization.scheme import Custom, scheme_of

Setting = Custom | OwnCode | None


def setting_of(given: Any) -> Setting:
    """A layer's setting from what the user said.

    Args:
        given: A scheme or its name, an `OwnCode`, or None: float.

    Raises:
        SenteiError: It is none of these.
    """
    return given if given is None or isinstance(given, OwnCode) else scheme_of(given)


class Settings:
    """The scheme of each layer: that of the first name that fits, else the default.

    Attributes:
        default: The scheme of layers that are not named.
        own: From names (or regular expressions) to a scheme, code of the user's own, or None:
            float. A name that begins with a slash is a whole path.
    """

    def __init__(self, default: Custom, layers: Mapping[str, Any] | None) -> None:
        """Reads what the user said.

        Args:
            default: The scheme of layers that are not named.
            layers: From names to a scheme, a scheme's name, an `OwnCode`, or None.

        Raises:
            SenteiError: It is no such mapping.
        """
        if layers is not None and not isinstance(layers, Mapping):
            raise SenteiError(
                "`layers` must be a dict from a layer's name to None (float) or a scheme. "
                f"Received: {type(layers).__name__}."
            )
        self.default = default
        self.own = {name: setting_of(given) for name, given in (layers or {}).items()}
        self.used: set[str] = set()

    def scheme_of(self, layer: Any, path: str) -> Custom | None:
        """A layer's scheme; None if it has none: it stays float, or runs by the user's own code.

        Args:
            layer: The layer or operation; None for an input of the model.
            path: Its name with those of the models around it.
        """
        setting = self.of(layer, path)
        return None if isinstance(setting, OwnCode) else setting

    def of(self, layer: Any, path: str) -> Setting:
        """A layer's setting.

        Args:
            layer: The layer or operation; None for an input of the model.
            path: Its name with those of the models around it.
        """
        parts = path.split("/")
        names = {f"/{path}", *parts, *("/".join(parts[: n + 1]) for n in range(len(parts)))}
        if layer is None:
            return self.default
        for name, setting in self.own.items():
            if name in names or any(re.fullmatch(name, own) for own in names):
                self.used.add(name)
                return setting
        return self.default

    def stand_ins(self, nodes: Sequence[Node]) -> dict[str, Any]:
        """What runs in place of layers that have code of the user's own, by their paths.

        Args:
            nodes: The model's graph; empty of a subclassed model.

        Raises:
            UnsupportedModel: There is such code for a subclassed model.
        """
        if not nodes and any(isinstance(own, OwnCode) for own in self.own.values()):
            raise UnsupportedModel(
                "An OwnCode is for layers of a Sequential or Functional model: a subclassed one "
                "calls its layers itself. Write the code into the layer."
            )
        found: dict[str, Any] = {}
        for node in nodes:
            path = node.name.partition(":")[0]
            setting = self.of(node.operation, path)
            if isinstance(setting, OwnCode) and path not in found:
                found[path] = setting.around(node.operation)
        return found

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
