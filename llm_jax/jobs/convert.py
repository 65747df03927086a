"""Job `convert`: a Hugging Face folder becomes an artifact, or an artifact a folder for others.

Weights pass through a layer at a time and keep their type, so a model needs no more memory than its
largest file. What was written is read back: every array bit by bit, and the logits of one row.
"""

import ctypes
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from llm_jax.jobs.model_export import Export
from llm_jax.jobs.model_import import Import
from llm_jax.options import at_least
from llm_jax.options import check as check_options
from llm_jax.types import BadInput

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job.

  Attributes:
    job: 'convert'.
    source: a Hugging Face folder, which becomes an artifact.
    artifact: without a source, the artifact that becomes a folder of `format`.
    format: of what is written from an artifact; 'compressed-tensors', a Hugging Face folder for
      vLLM and transformers, from one that job compress has made.
    workdir: the folder that is written.
    family: the `model_type` to write, where several of theirs have this model.
    dtype: of the weights that are written; '' for the one in which they are stored.
    type: of matrices in GGUF: blocks of 32 weights with 8 bits each ('q8_0') or 4 ('q4_0'), where
      their inputs are whole blocks; others are written in `dtype`.
    shard_bytes: most bytes of a file of weights that is written.
    trust: modules of yours that the artifact may name as its model.
  """

  job: str
  source: str = ''
  artifact: str = ''
  format: Literal['huggingface', 'gguf', 'compressed-tensors'] = 'huggingface'
  workdir: str
  family: str = ''
  dtype: Literal['', 'float32', 'bfloat16', 'float16'] = ''
  type: Literal['', 'q8_0', 'q4_0'] = ''
  shard_bytes: Annotated[int, at_least(1)] = 2 * 10**9
  trust: Sequence[str] = ()


def groups(config: Any) -> Iterator[tuple[str, Any, Sequence[str]]]:
  """No group of the config is for anything but this job."""
  del config
  return iter(())


def check(config: Any) -> None:
  """Whether there is something to convert, and the other side has a form for it.

  Raises:
    BadInput: naming the field, or the file and the entry in it.
  """
  check_options(Fields, config, where='config')
  if not (config.source or config.artifact):
    raise BadInput(
      'convert: nothing to convert; set config.source to a Hugging Face folder, or config.artifact'
    )
  if not config.workdir:
    raise BadInput('convert: config.workdir is empty; name the folder that is to be written')
  if config.get('type') and (config.source or config.format != 'gguf'):
    raise BadInput(f'convert: type {config.type!r} is one of GGUF; set config.format=gguf')
  if config.source:
    Import(config)
  else:
    Export(config)


def makes(config: Any) -> dict[str, Any]:
  """The config group of the model that a conversion into an artifact leaves there."""
  return Import(config).group


def main(config: Any) -> None:
  """Converts, unless the folder holds what was converted before."""
  _return_memory()
  (Import(config) if config.source else Export(config)).run()


def _return_memory() -> None:
  """Lets glibc return an array of 1 MB or more to the system once it is freed.

  By itself it would keep up to 32 MB at a time, for each thread, and with several threads that read
  and write arrays the process would grow to several times what it holds.
  """
  library = ctypes.CDLL(None) if sys.platform == 'linux' else None
  if hasattr(library, 'mallopt'):  # which musl lacks
    library.mallopt(_MMAP_THRESHOLD, 2**20)
