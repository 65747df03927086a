"""Which layers see a window, and which know positions, in config.json."""

from collections.abc import Sequence
from typing import Any

from llm_jax.models.huggingface.rules import Config, Rule, need
from llm_jax.models.shape import Shape

SLIDING, FULL = 'sliding_attention', 'full_attention'


def windows() -> Rule:
  """A window of some layers, which `use_sliding_window` turns on (Qwen)."""

  def read(config: Config) -> dict[str, Any]:
    window, count = config.get('sliding_window'), need(config, 'num_hidden_layers')
    if not config.get('use_sliding_window') or not window:
      return {'window': None}
    first = config.get('max_window_layers', 28)
    kinds = config.get('layer_types') or [SLIDING if i >= first else FULL for i in range(count)]
    return patterned(window, ['local' if kind == SLIDING else 'global' for kind in kinds])

  def write(shape: Shape) -> dict[str, Any]:
    return types(shape) | {
      'use_sliding_window': any(kind.window for kind in shape.blocks),
      'max_window_layers': 0,
    }

  return Rule(read, write)


def patterned(window: int | None, names: Sequence[str]) -> dict[str, Any]:
  """`window` and `layers` of a shape whose N blocks have these kinds, as short as can be.

  >>> patterned(8, ['local', 'global', 'local', 'global'])
  {'window': 8, 'layers': ('local', 'global')}
  >>> patterned(8, ['global', 'global'])
  {'window': None}
  """
  window = window if any(name.startswith('local') for name in names) else None
  count = len(names)
  whole = [size for size in range(1, count + 1) if count % size == 0]
  pattern = next(
    tuple(names[:size]) for size in whole if [*names] == [*names[:size]] * (count // size)
  )
  default = ('local' if window else 'global',)
  return {'window': window} | ({} if pattern == default else {'layers': pattern})


def types(shape: Shape) -> dict[str, Any]:
  """`sliding_window` and `layer_types` of a shape."""
  window = max((kind.window for kind in shape.blocks if kind.window), default=None)
  kinds = [SLIDING if kind.window else FULL for kind in shape.blocks]
  return {'sliding_window': window, 'layer_types': kinds}
