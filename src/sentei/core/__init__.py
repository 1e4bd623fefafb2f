"""The base of every room: which weights, when, and the optimizer that holds the rules."""
