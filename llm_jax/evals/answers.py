"""Questions answered and scored by plain functions: what a chat model can do."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llm_jax.find import find
from llm_jax.sampling import complete
from llm_jax.types import BadInput, Mean, Metrics, Params

# What the answers of each builtin family are asked for: files of rewards/.
SCORES = {
  'word_problems': ('exact_answer', 'reasons_first'),
  'python_questions': ('word_overlap', 'same_text'),
  'instructions': ('word_overlap', 'same_text'),
}


def make(
  model: Any,
  tokenizer: Any,
  *,
  questions: Sequence[Mapping[str, Any]],
  **how: Any,
) -> Callable[[Params], Metrics]:
  """`evaluate(params) -> {'<family>/<score>': Mean}`.

  Args:
    model: a causal language model.
    tokenizer: of the model.
    questions: with `prompt` (messages), `answer` (gold text) and `family`, a key of SCORES.
    **how: `template`, `max_new`, `temperature` and others of `complete.make`.
  """
  prompts = [question['prompt'] for question in questions]
  ask = complete.make(model, tokenizer, prompts=prompts, **how)
  return lambda params: score(questions, ask(params))


def score(questions: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> Metrics:
  """The scores of `answers` to `questions`, by family.

  Raises:
    BadInput: a family without scores.
  """
  metrics: Metrics = {}
  for question, answer in zip(questions, answers, strict=True):
    family = question['family']
    if family not in SCORES:
      raise BadInput(f'answers: no scores for {family!r}; choose from: {", ".join(SCORES)}')
    for name in SCORES[family]:
      value = Mean.of(find('rewards', name).reward(answer, question['answer']))
      key = f'{family}/{name}'
      metrics[key] = metrics[key] + value if key in metrics else value
  return metrics
