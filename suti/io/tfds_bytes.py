# SPDX-License-Identifier: Apache-2.0
"""Examples of TensorFlow Datasets, in the same bytes in every process.

The features of an example are a map of protobuf, which writes it in the order
of a hash that differs from process to process. Here it is that of their names.
"""

from typing import Any

from tensorflow_datasets.core.example_serializer import ExampleSerializer


class FixedOrder(ExampleSerializer):
  """Its serializer, but for the order."""

  def serialize_example(self, example: Any) -> bytes:
    """Packs an example as `tf.train.Example`."""
    return self.get_tf_example(example).SerializeToString(deterministic=True)
