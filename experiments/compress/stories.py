"""What compression costs a small model that reads text: bits per byte by every method.

python -m experiments.compress.stories MODEL TEXT [WORKDIR]

MODEL is a Hugging Face folder or an artifact, TEXT a file of plain text, perhaps with .gz, in which
every twenty paragraphs are taken for a document. A fifth of these is held out; calibration text is
from the rest.
"""

import gzip
import json
import sys
import tempfile
from pathlib import Path

from llm_jax import artifact
from llm_jax.main import read_config, run

PARAGRAPHS = 20  # of a document
METHODS = {
  'int8, an output': ('int8', ()),
  'fp8, an output': ('fp8', ()),
  'int4, groups of 32': ('int4', ('--config.method.kind=full',)),
  'int4, asymmetric': ('int4', ()),
  'int4, GPTQ': ('gptq', ('--config.method.kind=full',)),
  'int4, GPTQ, asymmetric': ('gptq', ()),
  'int4, AWQ': ('awq', ()),
}


def documents(path: Path) -> Path:
  """The text as JSON lines."""
  data = path.read_bytes()
  text = (gzip.decompress(data) if path.suffix == '.gz' else data).decode()
  paragraphs = [part for part in text.split('\n\n') if part.strip()]
  parts = [paragraphs[i : i + PARAGRAPHS] for i in range(0, len(paragraphs), PARAGRAPHS)]
  made = Path(tempfile.mkdtemp()) / 'text.jsonl'
  made.write_text(''.join(json.dumps({'text': '\n\n'.join(part)}) + '\n' for part in parts))
  return made


def main(source: str, text: str, workdir: str = 'runs/compress') -> None:
  """Prints a table."""
  if (Path(source) / artifact.FILE).is_file():
    model = source
  else:
    model = f'{workdir}/model'
    if not (Path(model) / artifact.FILE).is_file():
      job('convert', f'--config.source={source}', f'--config.workdir={model}')
  data = f'{workdir}/text'
  if not (Path(data) / 'tokenize.json').is_file():
    job(
      'tokenize', f'--config.workdir={data}', f'--config.sources.text={documents(Path(text))}',
      f'--config.tokenizer.path={model}/tokenizer', '--config.validation_fraction=0.2',
    )  # fmt: skip
  lines = [
    '| method | megabytes | bits a weight | bits per byte | more |',
    '| --- | --- | --- | --- | --- |',
  ]
  for name, (method, changes) in METHODS.items():
    folder = Path(workdir) / name.replace(', ', '-').replace(' ', '_')
    if not (folder / artifact.FILE).is_file():
      job(
        f'compress:{method}', f'--config.artifact={model}', f'--config.workdir={folder}',
        '--config.data.name=packed', f'--config.data.path={data}', *changes,
      )  # fmt: skip
    facts = json.loads((folder / 'report.json').read_text())
    before, after = (facts['metrics'][k]['text/bits_per_byte'] for k in ('before', 'after'))
    if len(lines) == 2:
      lines.append(f'| float32 | {facts["bytes"]["before"] / 1e6:.3f} | 32 | {before:.4f} | |')
    lines.append(
      f'| {name} | {facts["bytes"]["after"] / 1e6:.3f} | {facts["bits_per_weight"]:.2f} '
      f'| {after:.4f} | {after / before - 1:+.2%} |'
    )
  print('\n'.join(lines))


def job(name: str, *options: str) -> None:
  """Runs a job in this process."""
  run(read_config(['llm_jax.main', f'--config={name}', *options]))


if __name__ == '__main__':
  main(*sys.argv[1:])
