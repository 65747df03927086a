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


def layered(period: int) -> Rule:
  """Windows in the layers that `layer_types` names.

  Args:
    period: where it says nothing, every so many layers one sees all; `sliding_window_pattern` may
      say another number.
  """

  def read(config: Config) -> dict[str, Any]:
    count, step = need(config, 'num_hidden_layers'), config.get('sliding_window_pattern', period)
    assumed = [SLIDING if (i + 1) % step else FULL for i in range(count)]
    kinds = config.get('layer_types') or assumed
    return patterned(
      config.get('sliding_window'), ['local' if kind == SLIDING else 'global' for kind in kinds]
    )

  return Rule(read, types)


def positioned() -> Rule:
  """Windows and rotary positions in some layers each (SmolLM 3); 1 in `no_rope_layers`: rotary."""

  def read(config: Config) -> dict[str, Any]:
    count, step = need(config, 'num_hidden_layers'), config.get('no_rope_layer_interval', 4)
    turned = config.get('no_rope_layers') or [int((i + 1) % step != 0) for i in range(count)]
    window = config.get('sliding_window') if config.get('use_sliding_window') else None
    assumed = [SLIDING if window and not turn else FULL for turn in turned]
    kinds = config.get('layer_types') or assumed
    name = {(True, True): 'local', (True, False): 'local_nope', (False, True): 'global'}
    names = [
      name.get((bool(window and kind == SLIDING), bool(turn)), 'nope')
      for kind, turn in zip(kinds, turned, strict=True)
    ]
    own = {'kinds': {'local_nope': {'rope': False}}} if 'local_nope' in names else {}
    return patterned(window, names) | own

  def write(shape: Shape) -> dict[str, Any]:
    turned = [int(kind.rope) for kind in shape.blocks]
    return types(shape) | {
      'use_sliding_window': any(kind.window for kind in shape.blocks),
      'no_rope_layers': turned,
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
