"""Pages and held-out articles out of a clone of WCXB, the Web Content eXtraction Benchmark.

The benchmark has 2,008 pages of 1,613 sites (CC BY 4.0), and of each the main content as people
wrote it down. Pages of its development set are what is cleaned; main contents of its test set,
whose pages nobody trains on, are clean text from the same web.

    python -m experiments.clean.wcxb web-content-extraction-benchmark runs/wcxb
"""

import argparse
import gzip
import json
from pathlib import Path


def prepare(clone: Path, folder: Path) -> None:
  """Writes `pages/*.html` and `articles.jsonl` into `folder`."""
  (folder / 'pages').mkdir(parents=True, exist_ok=True)
  for path in sorted((clone / 'dev' / 'html').glob('*.html.gz')):
    (folder / 'pages' / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
  with open(folder / 'articles.jsonl', 'w', encoding='utf-8') as file:
    for path in sorted((clone / 'test' / 'ground-truth').glob('*.json')):
      text = json.loads(path.read_text(encoding='utf-8'))['ground_truth'].get('main_content')
      if text:
        print(json.dumps({'text': text}), file=file)


def main() -> None:
  """Reads the command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('clone', type=Path)
  parser.add_argument('folder', type=Path)
  options = parser.parse_args()
  prepare(options.clone, options.folder)


if __name__ == '__main__':
  main()
