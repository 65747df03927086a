"""What compression costs the assistant of a recipe: bits per byte by every method.

python -m experiments.compress.assistant ROOT STAGE [WORKDIR [METHOD ...]]

ROOT is the folder of a pipeline, such as runs/gpt, and STAGE one that trains what answers, such as
ppo; methods are those of stories.py, by default all. Calibration text is what job compress takes by
itself, the conversations that the model was trained on; `talk` is those that were held out from
them, and `text` that of pretraining.
"""

import json
import sys
from pathlib import Path

from experiments.compress.stories import METHODS, job
from llm_jax import artifact

NAMES = ('talk', 'text')


def main(root: str, stage: str, workdir: str = 'runs/compress', *names: str) -> None:
  """Prints a table."""
  lines = [
    '| method | megabytes | bits a weight | talk | more | text | more |',
    '| --- | ---: | ---: | ---: | ---: | ---: | ---: |',
  ]
  for name in names or METHODS:
    method, changes = METHODS[name]
    folder = Path(workdir) / stage / name.replace(', ', '-').replace(' ', '_')
    if not (folder / artifact.FILE).is_file():
      job(
        f'compress:{method}', f'--config.artifact={root}/{stage}', f'--config.workdir={folder}',
        '--config.evals.talk.name=perplexity', '--config.evals.text.data.name=packed',
        f'--config.evals.text.data.path={root}/tokenize', *changes,
      )  # fmt: skip
    facts = json.loads((folder / 'report.json').read_text())
    size = facts['bytes']
    values = lambda when, facts=facts: [
      facts['metrics'][when][f'{key}/bits_per_byte'] for key in NAMES
    ]
    before, after = values('before'), values('after')
    if len(lines) == 2:
      cells = ' | '.join(f'{value:.4f} |' for value in before)
      lines.append(f'| float32 | {size["before"] / 1e6:.3f} | 32 | {cells} |')
    more = [f'{y:.4f} | {y / x - 1:+.2%}' for x, y in zip(before, after, strict=True)]
    lines.append(
      f'| {name} | {size["after"] / 1e6:.3f} | {facts["bits_per_weight"]:.2f} '
      f'| {" | ".join(more)} |'
    )
  print('\n'.join(lines))


if __name__ == '__main__':
  main(*sys.argv[1:])
