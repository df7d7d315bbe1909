# SPDX-License-Identifier: Apache-2.0
"""Serialises examples of TensorFlow Datasets deterministically.

The features of an example are a protobuf map, which is written in the order of
a hash that differs between processes. Here they are sorted by name.
"""

from typing import Any

from tensorflow_datasets.core.example_serializer import ExampleSerializer


class FixedOrder(ExampleSerializer):
  """The serializer of tfds, with sorted features."""

  def serialize_example(self, example: Any) -> bytes:
    """Serialises an example as `tf.train.Example`."""
    return self.get_tf_example(example).SerializeToString(deterministic=True)
