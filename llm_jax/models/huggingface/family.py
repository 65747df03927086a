"""A family of Hugging Face transformers: what a row of the tables of families holds."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from llm_jax.models.huggingface.rules import Rule
from llm_jax.models.shape import Shape
from llm_jax.parallel.parameters import facts_of
from llm_jax.types import JUDGES

SCORE = 'score.weight'  # of a reward model, and of a classifier
SCORE_BIAS = 'score.bias'  # theirs has none; ours holds the shift that centres the scores


class Entry(NamedTuple):
  """What one of their arrays holds.

  Attributes:
    ours: parameter paths; those under `blocks/` are stacked over layers, and over experts.
    transposed: theirs is [out, in] (a torch Linear) where ours is [in, out].
    turns: how the parts of several paths take turns on its last axis of outputs: one after the
      other, for each key head its queries, key and value, or a column each.
    paired: the numbers of a head that are turned stand there in pairs, and here in halves.
  """

  ours: tuple[str, ...]
  transposed: bool
  turns: Literal['none', 'heads', 'columns'] = 'none'
  paired: bool = False


@dataclasses.dataclass(frozen=True)
class Family:
  """One `model_type` of theirs.

  Attributes:
    classes: how the names of its classes begin.
    arrays: their names to our paths; `{}` stands for the number of a layer, a second one for that
      of an expert. A name goes to a path, to several that lie side by side, or to an `Entry`.
    rules: of config.json.
    defaults: what the configuration class assumes where config.json says nothing.
    prefix: of all names but those of heads; files of a model without a head may lack it.
    linear: whether matrices are stored [out, in]; the Conv1D of GPT-2 stores [in, out].
    causal, scoring: how the names of the classes end that have a language model's head, and of
      those that have a head of scores.
    cannot: for a shape that the classes do not take, the field and what it might be.
  """

  classes: str
  arrays: Mapping[str, Any]
  rules: tuple[Rule, ...]
  defaults: Mapping[str, Any]
  prefix: str = 'model.'
  linear: bool = True
  causal: str = 'ForCausalLM'
  scoring: str = 'ForSequenceClassification'
  cannot: Callable[[Shape], tuple[str, Any] | None] = lambda shape: None

  @property
  def entries(self) -> dict[str, Entry]:
    """`arrays`, each as an Entry."""
    found = {}
    for theirs, ours in self.arrays.items():
      paths = (ours,) if isinstance(ours, str) else ours
      if not isinstance(ours, Entry):
        linear = self.linear or paths[0] == 'head/kernel'
        ours = Entry(paths, linear and facts_of(paths[0]).inputs > 0)
      found[theirs] = ours
    return found

  @property
  def heads(self) -> tuple[str, ...]:
    """The names that have no prefix: of the head, the score and its bias."""
    return tuple(name for name, ours in self.arrays.items() if str(ours).startswith('head/'))

  def architecture(self, shape: Shape) -> str:
    """The class of theirs that has a model of ours."""
    return self.classes + (self.scoring if shape.head in JUDGES else self.causal)
