"""How much a chat model loses when a question is not the first of its conversation.

python -m experiments.speedrun.turns runs/gpt/sft runs/llama/dpo

Sixty questions about names that SFT taught, in words of their own, are asked alone and behind
another question with its right answer. Answers are greedy.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import llm_jax
from llm_jax.data import knowledge
from llm_jax.evals import answers
from llm_jax.rewards import honest

MOST = 60  # questions
Message = Mapping[str, Any]


def turns(
  ask: Callable[[Sequence[Message]], str], questions: Sequence[Mapping[str, Any]]
) -> dict[str, int]:
  """How many are right alone and as the second one, and how often the first answer is repeated.

  Args:
    ask: messages -> the answer to the last one.
    questions: those of `data.knowledge`; each comes behind the one before it.
  """
  found = dict.fromkeys(('alone', 'second', 'repeats'), 0)
  right = lambda said, one: honest.outcome(said, one['answer'], one.get('also', ())) == 'right'
  for one, talk in zip(questions, answers.behind(questions), strict=True):
    alone, second = ask(one['prompt']), ask(talk['prompt'])
    found['alone'] += right(alone, one)
    found['second'] += right(second, one)
    found['repeats'] += second.strip() == talk['prompt'][-2]['content']
  return found


def main() -> None:
  """Prints a row for each artifact."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('artifacts', nargs='+')
  questions = knowledge.questions('test', classes=('taught',), most=MOST)
  print('| artifact | alone, right | second, right | repeats the first answer | questions |')
  print('| --- | ---: | ---: | ---: | ---: |')
  for path in parser.parse_args().artifacts:
    model = llm_jax.load(path)
    ask = lambda talk, model=model: str(
      model.chat(talk, temperature=0.0, max_new=48).get('content') or ''
    )
    print(f'| {path} | {" | ".join(map(str, turns(ask, questions).values()))} | {len(questions)} |')


if __name__ == '__main__':
  main()
