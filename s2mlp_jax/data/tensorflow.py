"""TensorFlow is used only for TFDS and TensorBoard, so it must not disturb anything else."""

import logging
import os
import types


def import_tensorflow() -> types.ModuleType:
    """Imports TensorFlow without its start-up messages, and keeps it off the accelerators.

    Raises:
      ModuleNotFoundError: if it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # otherwise it announces oneDNN
    import tensorflow as tf

    tf.get_logger().setLevel(logging.ERROR)
    tf.config.set_visible_devices([], "GPU")  # otherwise it takes the memory that training needs
    return tf
