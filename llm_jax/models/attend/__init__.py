"""softmax(q k / sqrt(E)) v by one of several backends, a file each.

A backend has two functions. `refuses(spec, head_dim=, length=, dtype=)` says why it cannot, or
None; `make(positions, spec)` gives `attend(q [B, H, L, E], k [B, K, S, E], v [B, K, S, E])`, which
returns [B, H, L, E], so that what all layers share is worked out once. With `spec.sinks` it is
given a fourth array [H]: scores that take part in the softmax of a head and have no value. Every
backend gives the same numbers, up to the rounding of its operands, and the softmax is in float32.
What a query that sees nothing (padding) gets is unspecified, and finite.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from llm_jax.options import suggest
from llm_jax.parallel.mesh import platform
from llm_jax.types import Array, BadInput

BACKENDS = ('xla', 'chunked', 'cudnn', 'splash')
LONG = 2048  # from here on `auto` prefers memory that grows with the length, not with its square

Attend = Callable[..., Array]


class AttentionSpec(NamedTuple):
  """What attention computes, as far as shapes and options tell: above all, who may see whom.

  Attributes:
    causal: whether later keys are hidden.
    window: keys this far away or further are hidden; None hides none.
    softcap: scores are c tanh(score / c); or None.
    aligned: query i stands where key i stands. False with a cache.
    product_dtype: to which operands of float32 products are rounded, where a backend does those.
    sinks: whether each head has a score that no key has.
    branches: whether keys are seen by later segments too; `xla` alone does it.
  """

  causal: bool = True
  window: int | None = None
  softcap: float | None = None
  aligned: bool = True
  product_dtype: str | None = None
  sinks: bool = False
  branches: bool = False


class Positions(NamedTuple):
  """Where queries and keys stand; a query sees keys of its segment, none of segment 0.

  Attributes:
    q_position, q_segment: int [B, L].
    k_position, k_segment: int [B, S].
    k_until: int [B, S], where texts branch: the last segment that sees a key, the first being its
      own. None where each segment sees itself alone.
  """

  q_position: Array
  q_segment: Array
  k_position: Array
  k_segment: Array
  k_until: Array | None = None


def choose(name: str, spec: AttentionSpec, *, head_dim: int, length: int, dtype: Any) -> str:
  """The backend that `name` stands for on the machine of the mesh in use.

  Args:
    name: one of BACKENDS, or 'auto': the kernel of the accelerator where it can do what is asked,
      else `xla` for short rows and `chunked` for long ones. A cache is always read by `xla`, and so
      are rows whose texts branch.
    spec, head_dim, length, dtype: what is asked.

  Raises:
    BadInput: no such backend, or it cannot do what is asked.
  """
  if name not in ('auto', *BACKENDS):
    raise BadInput(f'compute: no attention {name!r}; {suggest(name, ["auto", *BACKENDS])}')
  if not spec.aligned or spec.branches:
    return 'xla'
  refused = lambda name: load(name).refuses(spec, head_dim=head_dim, length=length, dtype=dtype)
  if name != 'auto':
    if reason := refused(name):
      raise BadInput(f"compute: attention={name!r} {reason}; attention='auto' takes what can")
    return name
  kernel = {'tpu': 'splash', 'gpu': 'cudnn'}.get(platform())
  if kernel and refused(kernel) is None:
    return kernel
  return 'chunked' if length >= LONG else 'xla'


def load(name: str) -> Any:
  """The module of a backend."""
  return importlib.import_module(f'llm_jax.models.attend.{name}')
