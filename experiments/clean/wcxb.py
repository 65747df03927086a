"""Pages and held-out text out of a clone of WCXB, the Web Content eXtraction Benchmark.

The benchmark has 2,008 pages of 1,613 sites (CC BY 4.0), and of each the main content as people
wrote it down. Pages of its development set are what is cleaned; main contents of its test set,
whose pages nobody trains on, are clean text from the same web.

    python -m experiments.clean.wcxb web-content-extraction-benchmark runs/wcxb
"""

import argparse
import gzip
import json
import re
from pathlib import Path


def prepare(clone: Path, folder: Path) -> None:
  """Writes `pages/*.html`, and `articles.jsonl` and `others.jsonl` by the kind of a page.

  Paragraphs are lines, as in the text that is extracted from pages; blank lines between them would
  be something to predict that only some variants have seen.
  """
  (folder / 'pages').mkdir(parents=True, exist_ok=True)
  for path in sorted((clone / 'dev' / 'html').glob('*.html.gz')):
    (folder / 'pages' / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
  kinds = json.loads((clone / 'metadata.json').read_text(encoding='utf-8'))['files']
  texts: dict[str, list[str]] = {'articles': [], 'others': []}
  for path in sorted((clone / 'test' / 'ground-truth').glob('*.json')):
    text = json.loads(path.read_text(encoding='utf-8'))['ground_truth'].get('main_content')
    if text:
      name = 'articles' if kinds[path.stem]['page_type'] == 'article' else 'others'
      texts[name].append(re.sub(r'\n\s*\n', '\n', text))
  for name, some in texts.items():
    lines = (json.dumps({'text': text}) + '\n' for text in some)
    (folder / f'{name}.jsonl').write_text(''.join(lines), encoding='utf-8')


def main() -> None:
  """Reads the command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('clone', type=Path)
  parser.add_argument('folder', type=Path)
  options = parser.parse_args()
  prepare(options.clone, options.folder)


if __name__ == '__main__':
  main()
