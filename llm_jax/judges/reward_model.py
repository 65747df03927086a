"""Prefers the answer with the higher score under a reward model, an artifact of stage `reward`."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llm_jax import artifact, run_folder
from llm_jax.judges.pair import Judge, Pair, Verdict, by_score
from llm_jax.options import Count, NotNegative, Place
from llm_jax.types import BadInput

ORDERED = False
_BLOCK = 16  # batches whose answers are sorted by length together


def check(*, path: str, **others: Any) -> None:
  """Whether there is a model at `path` that scores."""
  del others
  if artifact.describe(path)['model'].get('head') != 'scalar':
    raise BadInput(f'judge: {path!r} has no scalar head; give the folder of a reward stage')


def depends(*, path: str, margin: float, **others: Any) -> Any:
  """The content of the artifact, wherever it is."""
  del others
  return ['reward_model', run_folder.digest(path), margin]


def make(
  *, path: Place, load: Callable[[str], Any], margin: NotNegative = 0.0, batch_size: Count = 16
) -> Judge:
  """Scores are read at the last token of prompt and answer, without thoughts and calls.

  Args:
    path: folder of the artifact.
    load: gives the model of a folder; the job has it.
    margin: scores that differ by this or less are a tie.
    batch_size: answers at a time.
  """
  model = load(path)
  known: dict[tuple[int, str], float | None] = {}  # an answer meets several others

  def judge(pairs: Sequence[Pair]) -> Iterator[Verdict]:
    for start in range(0, len(pairs), _BLOCK * batch_size):
      block = pairs[start : start + _BLOCK * batch_size]
      asked = {(id(pair.question), text): pair.question['prompt']
               for pair in block for text in (pair.first, pair.second)}  # fmt: skip
      new = [key for key in asked if key not in known]
      scores = model.scores([(asked[key], key[1]) for key in new], batch_size=batch_size)
      known.update(zip(new, scores, strict=True))
      for pair in block:
        of = lambda text, pair=pair: known[id(pair.question), text]
        yield by_score(of(pair.first), of(pair.second), margin)

  return judge
