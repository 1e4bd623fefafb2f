"""The names of `tensorflow_model_optimization`, with sentei underneath, on any Keras backend.

A program written for the old toolkit runs by changing its import:

```python
from sentei import tfmot
```

Importing this makes `keras.Model.compile` put the rules on the optimizer that pruned or clustered
layers ask for, and quantized models that keep zeros or clusters (`sentei.tfmot.attach`).
"""

from sentei.tfmot import clustering, experimental, quantization, sparsity
from sentei.tfmot.attach import watch_compile

__all__ = ["clustering", "experimental", "quantization", "sparsity"]

watch_compile()
