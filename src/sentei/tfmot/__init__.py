"""The names of `tensorflow_model_optimization`, with sentei underneath, on any Keras backend.

A program written for the old toolkit runs by changing its import:

```python
from sentei import tfmot
```

Importing this makes `keras.Model.compile` put the rules on the optimizer that pruned or clustered
layers ask for (`sentei.tfmot.attach`).
"""

from sentei.tfmot import clustering, sparsity
from sentei.tfmot.attach import watch_compile

__all__ = ["clustering", "sparsity"]

watch_compile()
