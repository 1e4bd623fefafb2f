"""`sentei demo`: the whole walk on real images, from training to figures read off the runtime."""

from sentei.demo.command import run

__all__ = ["run"]
