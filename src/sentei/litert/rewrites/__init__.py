"""Rules that turn a traced graph into one the LiteRT converter turns into plain builtin ops.

`walk` reads a JAX program equation by equation and lets a table of rules, keyed by the name of the
JAX primitive, say it in other words. Each file beside it holds one idea and its rows of the table:
`loops` (unrolling), `windows` (pooling), `convolutions`, `resampling`, `functions` (activations
known by their values), `normalized` (softmax), `lookups` (embeddings), `refused` (what has no
LiteRT form). Rules see primitives, not Keras layers, so a custom layer gains as much as a built-in.
"""
