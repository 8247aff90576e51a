"""ArrayRecord: a record a row, each a tf.Example with the one feature `input_ids`, int64 list.

That is what MaxText's grain pipeline parses (`grain_file_type=arrayrecord`, its ParseFeatures).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from array_record.python.array_record_module import ArrayRecordWriter
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from espalier.data.tokens.reader import Ids
from espalier.errors import EnvironmentFailure, InputError
from inputs.export.files import whole

FEATURE = "input_ids"
OPTIONS = "group_size:1"
"""A record a chunk: grain reads them in any order."""

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


def write(target: Path, rows: Iterator[Ids]) -> None:
    """Write rows as the records of one file, compressed by zstd as the package's default is.

    Raises:
        EnvironmentFailure: the file cannot be written.
    """
    with whole(target) as temporary:
        try:
            writer = ArrayRecordWriter(str(temporary), OPTIONS)
            for row in rows:
                writer.write(serialized(row))
            writer.close()
        except RuntimeError as error:  # all that the package raises
            reason = str(error).partition(";")[0]
            raise EnvironmentFailure(f"{target.name} cannot be written: {reason}.") from None


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
        raise InputError("a record is no tf.Example; export the data again.") from None
    return np.asarray(values, np.int64)


def _example_class() -> Any:
    pool = DescriptorPool()  # of its own: the names are TensorFlow's
    pool.AddSerializedFile(text_format.Parse(EXAMPLE, FileDescriptorProto()).SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


_Example = _example_class()
