"""Data: TFDS -> random-access source -> Grain -> global batches of uint8 images."""
