"""Rules that turn a traced graph into one the LiteRT converter turns into plain builtin operators.

`walk` reads a JAX program equation by equation and lets a table of rules, keyed by the name of the
JAX primitive, say it in other words. Each file beside it holds one idea and its rows of the table:

- `functions`: activations, known by what they compute (GELU); `normalized`: softmax, layer norm
- `convolutions`, `windows` (pooling), `resampling`, `lookups` (embeddings, bins), `spectra` (FFT)
- `loops`: written out; `views`: what follows a convolution stays next to it
- `choices`: kept in real numbers in quantized models; `twins`: a reshaped tensor beside itself
- `remainders`: single primitives that the converter gets wrong
- `refused`: what has no LiteRT form, by layer class and by primitive, with the reason
- `layers`: the few Keras layers whose own `call` is replaced

Rules see primitives, not Keras layers, so a custom layer gains as much as a built-in one.
"""
