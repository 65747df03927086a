"""The words every room shares: shape letters, batch fields, interfaces, averages and bad input.

Shape letters, in names such as `logits_BLV`:
  A answer bytes, B batch, C classes or clusters, D model, E head size, F hidden, G group, H heads,
  K kv heads (or kept tokens of a teacher), L length, M models of a comparison, N layers, P prompt,
  R resamples, S keys, V vocabulary.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp

Array = jax.Array
Params = Mapping[str, Any]
Batch = Mapping[str, Array]


class Field(NamedTuple):
  """An array of a batch.

  Attributes:
    shape: its axes, by shape letter; `[G]` is there where answers to one prompt are compared.
    dtype: of its numbers.
    meaning: of an entry.
  """

  shape: str
  dtype: str
  meaning: str


FIELDS: dict[str, Field] = {
  'tokens': Field('B [G] L', 'int32', 'ids'),
  'mask': Field(
    'B [G] L', 'float32', '1 where the token is a target; never on the first token of a segment'
  ),
  'position': Field('B [G] L', 'int32', 'counts from 0 inside each segment'),
  'segment': Field(
    'B [G] L',
    'int32',
    '0 is padding; 1, 2, ... are the documents of a row; attention stays inside one',
  ),
  'target': Field('B [G] L', 'int32', 'what to predict where that is not `tokens`, or the class'),
  'prompt': Field('B P', 'int32', 'ids to continue, padded on the left'),
  'prompt_mask': Field('B P', 'int32', '1 on the real ids of `prompt`'),
  'gold': Field('B A', 'uint8', 'the gold answer as UTF-8, padded with 0'),
  'record': Field(
    'B A', 'uint8', 'the columns of its record that a reward asks for, as JSON, padded with 0'
  ),
  'sampled_logp': Field(
    'B G L', 'float32', 'log-probability under what was sampled from, truncation included'
  ),
  'old_logp': Field(
    'B G L',
    'float32',
    'log-probability under the policy that sampled, computed as the trainer computes it',
  ),
  'ref_logp': Field('B [G] L', 'float32', 'log-probability under a frozen model'),
  'reward': Field('B G', 'float32', 'the score of an answer'),
  'valid': Field('B G', 'float32', '1 where the reward of an answer is known'),
  'token_reward': Field('B G L', 'float32', 'the reward of choosing token t'),
  'value': Field('B G L', 'float32', 'the return that the critic expects before token t is chosen'),
  'return': Field('B G L', 'float32', 'what the critic should have expected'),
  'advantage': Field('B G L', 'float32', 'how much better than expected the choice of token t was'),
  'value_mask': Field(
    'B G L', 'float32', '1 on the steps whose value counts, where these are not those of `mask`'
  ),
  'keep': Field('B', 'float32', '1 for groups worth training on; the others are replaced'),
  'teacher_logits': Field(
    'B [G] L K', 'float32', "log-probabilities of a teacher's likeliest tokens"
  ),
  'teacher_ids': Field('B [G] L K', 'int32', 'which tokens these are'),
  'label': Field('B', 'float32', '1 for a good answer, 0 for a bad one'),
  'margin': Field('B', 'float32', 'by how much the first answer is better'),
  **{
    f'kl_{name}': Field('B [G] L', dtype, f'`{name}` of prompts with answers that are not theirs')
    for name, dtype in (
      *(('tokens', 'int32'), ('mask', 'float32'), ('position', 'int32'), ('segment', 'int32')),
      ('ref_logp', 'float32'),
    )
  },
  **{
    f'ptx_{name}': Field('B L', dtype, f'`{name}` of pretraining rows beside the rollout')
    for name, dtype in (
      *(('tokens', 'int32'), ('mask', 'float32'), ('position', 'int32'), ('segment', 'int32')),
    )
  },
  'log/<name>': Field(
    'B', 'float32', 'what an annotator measured; the step reports its mean as `<name>`'
  ),
}


# Heads that continue no text, and what a model with one is.
JUDGES = {'scalar': 'a reward model', 'classes': 'a classifier'}


class BadInput(ValueError):
  """Something the user gave cannot work. The message is one line: what, where, what would work."""


class NothingNew(BadInput):
  """What a job would work on has not come yet; a pipeline ends there, and is no failure."""


class Model(Protocol):
  """A network: what jobs, losses, annotators and the sampler may ask of it.

  Parameters are always an argument. `models/transformer.py` has the one most models are made of.
  """

  @property
  def shape(self) -> Any:
    """What fixes parameters and function, such as `vocab_size`, `max_length`, `causal`, `head`."""
    ...

  @property
  def compute(self) -> Any:
    """How it is run: types, attention and so on; see `models/compute.py`."""
    ...

  @property
  def frozen(self) -> Sequence[str]:
    """Top-level names of parameters that training leaves as they are."""
    ...

  def init(self, rng: Array, tokens: Array) -> Params:
    """Fresh parameters; `tokens` [1, 1] gives the type of an input."""
    ...

  def apply(self, params: Params, *args: Any, method: str | None = None, **kwargs: Any) -> Any:
    """(tokens, position, segment, cache) -> (logits, cache); or another `method` of the network.

    `method='hidden'` gives the last hidden states [B, L, D] and the cache, 'unembed' the logits of
    hidden states [..., D], and 'value', of a model with a critic, the values [B, L].
    """

  def for_decoding(self, params: Params) -> tuple['Model', Params]:
    """The same function in a form that decodes fast."""
    ...

  def published(self, params: Params) -> tuple['Model', Params]:
    """What a finished run leaves for the next stage."""
    ...

  def make_cache(self, batch: int, slots: int) -> dict[str, Any]:
    """An empty cache of keys and values for rows of up to `slots` tokens."""
    ...

  def backend(self, length: int) -> str:
    """Which attention computes rows of `length` tokens; BadInput if it cannot."""
    ...

  def num_params(self) -> int:
    """How many numbers the parameters hold."""
    ...

  def flops_per_token(self, length: int) -> float:
    """Of a training step, forward and backward, for rows of `length` tokens."""
    ...


class Tokenizer(Protocol):
  """Text to ids and back: what stages ask of `text/tokenizer.py` and `text/tokenizer_json.py`.

  Attributes:
    vocab_size: V. A model may have more rows.
    begin: ids that go before a document: the begin, or nothing.
    stop_ids: ids that end an answer, the end of a document first.
    specials: name -> id of every control token.
    gaps: ids below V without a token.
    token_bytes: int32 [V], UTF-8 bytes of text that each id stands for; 0 for control tokens.
    prefix_after: ids after which a text gets a blank that it does not have; mostly empty.
    normalizes: what `decode(encode(text))` may change in a text, in words; empty if nothing.
    fingerprint: changes with the ids that it gives.
    chat_template: Jinja text, or None.
  """

  vocab_size: int
  begin: tuple[int, ...]
  stop_ids: tuple[int, ...]
  specials: dict[str, int]
  gaps: tuple[int, ...]
  token_bytes: Any
  prefix_after: frozenset[int]
  normalizes: tuple[str, ...]
  fingerprint: str
  chat_template: str | None

  @property
  def bos_id(self) -> int | None:
    """The begin of a document; None in families without one."""
    ...

  @property
  def eos_id(self) -> int:
    """The end of a document; BadInput if the tokenizer names none."""
    ...

  @property
  def pad_id(self) -> int:
    """What fills rows; masks hide it, so it may be another one's id."""
    ...

  def encode(self, text: str) -> list[int]:
    """Ids of a text, of which none is a control token."""
    ...

  def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[list[int]]:
    """`encode` of many."""
    ...

  def encode_pieces(
    self, conversations: Sequence[Sequence[tuple[str, bool]]], threads: int | None = None
  ) -> list[list[list[int]]]:
    """Ids of each piece (text, whether it names a control token) of each conversation."""
    ...

  def decode(self, ids: Iterable[int], specials: bool = False, after: int | None = None) -> str:
    """The text of ids that follow the id `after`; control tokens are shown if `specials`."""
    ...

  def bytes_of(self, i: int) -> bytes:
    """What an id stands for: bytes of text, or the name of a control token; b'' if nothing."""
    ...

  def special(self, name: str) -> int:
    """The id of a control token; BadInput if there is none of that name."""
    ...

  def with_specials(self, names: Sequence[str]) -> 'Tokenizer':
    """The same tokenizer with more control tokens, from id V on."""
    ...

  def save(self, folder: str | os.PathLike) -> None:
    """Writes the files that `text/folder.py` reads."""
    ...


class Annotate(Protocol):
  """Whatever writes into a batch before the step; a plain function will do."""

  def __call__(self, params: Params, batch: Batch, rng: Array, /) -> Batch:
    """The batch with more fields. `params` are those that are being trained."""
    ...


@runtime_checkable
class Adapted(Protocol):
  """A model that adds to a frozen one, whose parameters are `params['base']`."""

  base: Model


@runtime_checkable
class Samples(Protocol):
  """An annotator that writes rows of its own to prompts, and knows how long they will be."""

  def rows(self, prompt_length: int) -> tuple[int, int]:
    """G and L of the rows [B, G, L] that it writes to prompts of so many columns."""
    ...


@runtime_checkable
class Filters(Protocol):
  """An annotator that writes `keep`: up to `tries` rollouts are sampled to fill one."""

  tries: int


@runtime_checkable
class Observes(Protocol):
  """An annotator that hears of each rollout that is trained on, and of no other."""

  def observe(self, batch: Batch) -> None:
    """Called once for each."""
    ...


@runtime_checkable
class Remembers(Protocol):
  """An annotator with something to remember, which checkpoints keep as JSON."""

  def carry(self) -> Any:
    """What a resumed run has to know."""
    ...

  def restore(self, carried: Any) -> None:
    """Goes on from what `carry` gave."""
    ...


@flax.struct.dataclass
class Mean:
  """A sum and its count, both float32 scalars.

  `+` merges microbatches, devices and evaluation batches exactly; divide once, where it is shown.

  >>> half, rest = Mean.of([1.0, 3.0, 9.0], weight=[1, 1, 0]), Mean.of([5.0])
  >>> float((half + rest).value)  # of 1, 3 and 5; the mean of the two means would be 3.5
  3.0
  """

  total: Array
  count: Array

  @classmethod
  def of(cls, values: Any, weight: Any = 1.0) -> 'Mean':
    """Weighted mean of `values`; `weight` broadcasts against them."""
    values = jnp.asarray(values, jnp.float32)
    weight = jnp.broadcast_to(jnp.asarray(weight, jnp.float32), values.shape)
    return cls(total=(values * weight).sum(), count=weight.sum())

  @property
  def value(self) -> Array:
    """total / count; 0 where nothing was counted."""
    return self.total / jnp.where(self.count == 0, 1, self.count)

  def __add__(self, other: 'Mean') -> 'Mean':
    return Mean(self.total + other.total, self.count + other.count)


@flax.struct.dataclass
class Peak:
  """The largest of some numbers, none below 0; `+` merges parts as it does for `Mean`.

  >>> float((Peak.of([1.0, 7.0], weight=[1, 0]) + Peak.of([3.0])).value)
  3.0
  """

  value: Array

  @classmethod
  def of(cls, values: Any, weight: Any = 1.0) -> 'Peak':
    """The largest of `values` where `weight` is not 0; 0 where there is none."""
    values = jnp.asarray(values, jnp.float32)
    return cls(jnp.where(jnp.asarray(weight) > 0, values, 0).max())

  def __add__(self, other: 'Peak') -> 'Peak':
    return Peak(jnp.maximum(self.value, other.value))


@flax.struct.dataclass
class Counts:
  """Sums by name, and the function that makes one number of them; for metrics that are no means.

  `+` merges parts exactly, as it does for `Mean`: F1s of halves cannot be averaged, but the counts
  behind them can be added.

  >>> def precision(sums):
  ...   return sums['right'] / (sums['right'] + sums['wrong'])
  >>> first = Counts({'right': 1, 'wrong': 1}, precision)
  >>> second = Counts({'right': 2, 'wrong': 0}, precision)
  >>> (first + second).value
  0.75
  """

  sums: Mapping[str, Any]
  compute: Callable[[Mapping[str, Any]], Any] = flax.struct.field(pytree_node=False)

  @property
  def value(self) -> Any:
    """`compute(sums)`."""
    return self.compute(self.sums)

  def __add__(self, other: 'Counts') -> 'Counts':
    return Counts({k: v + other.sums[k] for k, v in self.sums.items()}, self.compute)


Metrics = dict[str, Any]  # of Mean, Peak or Counts
LossFn = Callable[[Params, Batch, Array], tuple[Mean, Metrics]]
BatchFn = Callable[[Params, int], Batch]
Evaluate = Callable[[Params], Metrics]
