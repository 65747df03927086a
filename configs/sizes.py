"""Model sizes by name, from a laptop to a pod."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference

SIZES = ('tiny', '15m', '125m', '1b', '8b', '70b', '405b')


class OfSize(FieldReference):
  """A field of `config.model` that has the value of its size, and that nobody has asked for.

  A stage that starts from an artifact takes the artifact's value. Once the field is set, by another
  config or on the command line, it is kept.
  """

  def __init__(self, value: Any) -> None:
    super().__init__(value)
    self.follows = True

  def set(self, value: Any, type_safe: bool = True) -> None:
    super().set(value, type_safe)
    self.follows = False

  def __setstate__(self, state: dict[str, Any]) -> None:  # copies
    super().__setstate__(state)
    self.follows = state['follows']


def model(size: str) -> ConfigDict:
  """`config.model` of a size; parameter counts are without a second embedding where it is tied."""
  if size not in SIZES:
    raise ValueError(f'no size {size!r}; choose from: {", ".join(SIZES)}')
  llama3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=8192)
  shape = {
    # 1.8M: learns the builtin corpus on a laptop CPU.
    # It starts with induction heads, and with embeddings that outweigh what layers add: so it can
    # copy, which it would not learn within these few steps. Its family is that of Qwen2.
    'tiny': dict(
      vocab_size=4096, dim=128, num_layers=6, num_heads=4, max_length=1024, qkv_bias=True,
      embedding_std=1.0, induction_heads=2,
    ),
    '15m': dict(vocab_size=8192, dim=320, num_layers=10, num_heads=5, max_length=2048),
    '125m': dict(vocab_size=32768, dim=768, num_layers=12, num_heads=12, max_length=4096),
    '1b': dict(
      vocab_size=32768, dim=2048, num_layers=18, num_heads=16, num_kv_heads=8, hidden_dim=6144,
      max_length=8192,
    ),
    # The shapes of Llama 3.1, arXiv:2407.21783, table 3.
    '8b': dict(
      vocab_size=128256, dim=4096, num_layers=32, num_heads=32, num_kv_heads=8, hidden_dim=14336,
      max_length=131072, rope_theta=500000.0, rope_scaling=llama3, head='untied',
    ),
    '70b': dict(
      vocab_size=128256, dim=8192, num_layers=80, num_heads=64, num_kv_heads=8, hidden_dim=28672,
      max_length=131072, rope_theta=500000.0, rope_scaling=llama3, head='untied',
    ),
    '405b': dict(
      vocab_size=128256, dim=16384, num_layers=126, num_heads=128, num_kv_heads=8,
      hidden_dim=53248, max_length=131072, rope_theta=500000.0, rope_scaling=llama3,
      head='untied',
    ),
  }[size]  # fmt: skip
  return ConfigDict(dict(name='transformer', **_of_size(shape)))


def adapted(size: str) -> bool:
  """Whether stages that go on from another model train it by LoRA: those above 1b.

  With AdamW all of a model takes sixteen bytes a parameter; its additions take next to nothing.
  """
  return SIZES.index(size) > SIZES.index('1b')


def lora(size: str) -> ConfigDict:
  """`config.model` of such a stage; `--config.model.lora=unset` trains all of it."""
  c = model(size)
  if adapted(size):
    c.lora = ConfigDict(dict(rank=16, alpha=32.0))
  return c


def rate(size: str, rate: float) -> float:
  """The learning rate of such a stage; LoRA wants a larger one.

  Ten times as large, as in "LoRA Without Regret" (Schulman et al., 2025).
  """
  return rate * (10 if adapted(size) else 1)


def _of_size(shape: Mapping[str, Any]) -> dict[str, Any]:
  one = lambda value: _of_size(value) if isinstance(value, Mapping) else OfSize(value)
  return {name: one(value) for name, value in shape.items()}


def compute(size: str) -> ConfigDict:
  """`config.compute` of a size: on CPUs unrolled layers run faster, accelerators save memory."""
  model(size)  # refuses an unknown one
  if size in ('tiny', '15m'):
    return ConfigDict(dict(scan_layers=False))
  return ConfigDict(dict(dtype='bfloat16', remat='dots'))
