"""All programs of HumanEval in the sandbox: python -m experiments.reliability.programs PATH

PATH is HumanEval.jsonl.gz of github.com/openai/human-eval. Each of its solutions runs as it is,
with its last line dropped, and with a `raise` before its first line. The command ends with 0 only
if all of the first pass and none of the others, and prints how long a program takes.
"""

import argparse
import gzip
import json
import sys
import time
from collections import Counter

from llm_jax.rewards import sandbox


def dropped(body: str) -> str:
  """A body without its last line."""
  return body.rstrip().rpartition('\n')[0]


def raising(body: str) -> str:
  """A body that raises before all else."""
  first = next(line for line in body.splitlines() if line.strip())
  indent = first[: len(first) - len(first.lstrip())]
  return f'{indent}raise RuntimeError\n{body}'


CHANGES = {'as it is': lambda body: body, 'last line dropped': dropped, 'raises': raising}


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('path')
  parser.add_argument('--workers', type=int, help='programs at a time; by default one a core')
  args = parser.parse_args()
  with gzip.open(args.path, 'rt', encoding='utf-8') as file:
    rows = [json.loads(line) for line in file]
  print('protections:', ', '.join(sandbox.protections()))
  right = True
  for name, change in CHANGES.items():
    jobs = [
      dict(
        program=change(row['canonical_solution']),
        tests=f'{row["test"]}\ncheck({row["entry_point"]})',
        before=row['prompt'],
        names=[row['entry_point']],
      )
      for row in rows
    ]
    start = time.perf_counter()
    ran = sandbox.run_many(jobs, workers=args.workers)
    each = (time.perf_counter() - start) / len(rows)
    passed = sum(one.passed for one in ran)
    print(f'{name}: {passed} of {len(rows)} pass; {1000 * each:.1f} ms a program', end='; ')
    print(dict(Counter(one.outcome for one in ran)))
    right &= passed == (len(rows) if name == 'as it is' else 0)
  return 0 if right else 1


if __name__ == '__main__':
  sys.exit(main())
