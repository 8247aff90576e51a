"""A row of token ids as a tf.Example with the one feature `input_ids`, an int64 list.

That is what MaxText's grain pipeline parses out of ArrayRecord files (its ParseFeatures).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from espalier.data.tokens.reader import Ids
from espalier.errors import InputError

FEATURE = "input_ids"

# TensorFlow's example.proto and feature.proto, as far as integers go; no TensorFlow is needed.
EXAMPLE = """
name: "example.proto" package: "tensorflow" syntax: "proto3"
message_type {
  name: "Int64List"
  field { name: "value" number: 1 type: TYPE_INT64 label: LABEL_REPEATED }
}
message_type {
  name: "Feature"
  field { name: "int64_list" number: 3 type: TYPE_MESSAGE type_name: ".tensorflow.Int64List" }
}
message_type {
  name: "Features"
  nested_type {
    name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING }
    field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".tensorflow.Feature" }
  }
  field { name: "feature" number: 1 type: TYPE_MESSAGE label: LABEL_REPEATED
          type_name: ".tensorflow.Features.FeatureEntry" }
}
message_type {
  name: "Example"
  field { name: "features" number: 1 type: TYPE_MESSAGE type_name: ".tensorflow.Features" }
}
"""


def serialized(ids: Ids) -> bytes:
    """The tf.Example of a row [tokens]."""
    example = _Example()
    example.features.feature[FEATURE].int64_list.value.extend(ids.tolist())
    data: bytes = example.SerializeToString(deterministic=True)
    return data


def parsed(record: bytes) -> npt.NDArray[np.int64]:
    """The ids of a record [tokens].

    Raises:
        InputError: it is no such record.
    """
    try:
        values = _Example.FromString(record).features.feature[FEATURE].int64_list.value
    except DecodeError:
        raise InputError("a record is not a tf.Example; export the data again.") from None
    return np.asarray(values, np.int64)


def _example_class() -> Any:
    pool = DescriptorPool()  # of its own: the names are TensorFlow's
    pool.AddSerializedFile(text_format.Parse(EXAMPLE, FileDescriptorProto()).SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


_Example = _example_class()
