"""A price on bits: what a weight's code costs, its quantizer, model and callbacks."""
