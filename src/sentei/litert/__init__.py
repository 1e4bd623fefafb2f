"""From Keras model to `.tflite`, and what the file does on the real runtime."""
