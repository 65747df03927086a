"""Does a reward model tell right answers to word problems from wrong ones?

    python -m llm_jax.main --config=configs/best_of_n.py --config.artifact=runs/gpt/sft \
      --config.annotate.reward_model.path=runs/gpt/reward \
      --config.annotate.steps="('sample','reward_model')" --config.split=test \
      --config.max_prompts=200 --config.workdir=runs/gpt/tried
    python -m experiments.speedrun.taste runs/gpt/tried

reads the answers that job `sample` left with their scores, and prints how many are right, how many
of those that score best among the answers to one question, and the probability that a right answer
scores above a wrong one (AUROC), among all answers and among those that reason first.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.data import word_problems
from llm_jax.evals.calibration import auroc
from llm_jax.rewards import exact_answer
from llm_jax.rewards import reasons_first as order


def taste(records: Iterable[Mapping[str, Any]], gold: Mapping[str, str]) -> dict[str, float]:
  """What the scores say of the answers.

  Args:
    records: each with a `prompt`, its `candidates`, and their `scores`.
    gold: the text of a question -> its right answer; what is not there is left out.
  """
  right, scores, first, best = [], [], [], []
  for record in records:
    question = record['prompt'][-1]['content']
    if question not in gold:
      continue
    answers, found = record['candidates'], record['scores']
    holds = [exact_answer.reward(answer, gold[question]) > 0 for answer in answers]
    best.append(holds[int(np.argmax(found))])
    right += holds
    scores += found
    first += [order.reward(answer, gold[question]) > 0 for answer in answers]
  right_A, first_A = np.array(right), np.array(first)
  score_A = 1 / (1 + np.exp(-np.array(scores)))  # as `auroc` wants it, in the same order
  return {
    'questions': len(best),
    'right': right_A.mean(),
    'right, best of each question': np.mean(best),
    'reason first': first_A.mean(),
    'AUROC': auroc(score_A, right_A),
    'AUROC of those that reason first': auroc(score_A[first_A], right_A[first_A]),
  }


def main() -> None:
  """Prints a line for each folder."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('folders', nargs='+', type=Path, help='of job `sample`')
  gold = {q['prompt'][-1]['content']: q['answer'] for q in word_problems.questions('test')}
  for folder in parser.parse_args().folders:
    with (folder / 'answers.jsonl').open(encoding='utf-8') as lines:
      found = taste(map(json.loads, lines), gold)
    print(folder, *(f'{name} {value:.3f}' for name, value in found.items()), sep='; ')


if __name__ == '__main__':
  main()
