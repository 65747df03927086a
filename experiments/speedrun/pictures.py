"""The pictures of the README: a recipe's report, and the chat page with its newest model.

python -m experiments.speedrun.pictures runs/gpt docs
"""

import argparse
import io
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.speedrun import record

PORT = 8093
QUESTIONS = (
  'What does `os.path.join` do?',
  'Max buys 4 oranges at $4 each and 3 cards at $6 each. How much does Max pay?',
)


def main() -> None:
  """Writes report.png and chat.png; it needs playwright, Pillow and a Chromium."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('run', help='the folder of a recipe that has finished')
  parser.add_argument('folder', help='where the pictures go')
  args = parser.parse_args()
  from playwright.sync_api import sync_playwright

  page = Path(args.run) / 'report.html'
  model = record.facts_of(Path(args.run))['newest']
  found = next(filter(None, map(shutil.which, ('chromium', 'google-chrome'))), None)
  words = f'--config=serve --config.artifact={model} --config.port={PORT}'
  server = subprocess.Popen([sys.executable, '-m', 'llm_jax.main', *words.split()])
  try:
    with sync_playwright() as playwright:
      browser = playwright.chromium.launch(executable_path=found, args=['--no-sandbox'])
      shot = lambda name, size, show: _shot(browser, Path(args.folder) / name, size, show)
      shot('report.png', (900, 1000), lambda tab: tab.goto(page.resolve().as_uri()))
      _wait()
      shot('chat.png', (900, 560), _talk)
  finally:
    server.terminate()
    server.wait()


def _wait() -> None:
  """Until the server answers."""
  for _ in range(300):
    try:
      return urllib.request.urlopen(f'http://127.0.0.1:{PORT}/health', timeout=1).close()
    except OSError:
      time.sleep(1)
  raise SystemExit('the server did not come up')


def _talk(tab: Any) -> None:
  """Asks the questions, and waits for the answers."""
  tab.goto(f'http://127.0.0.1:{PORT}/')
  for number, question in enumerate(QUESTIONS, 1):
    tab.fill('#ask', question)
    tab.press('#ask', 'Enter')
    tab.wait_for_function(
      'n => document.querySelectorAll("#log article").length >= n && '
      '!document.querySelector("#send").textContent.includes("Stop")', arg=number, timeout=300_000
    )  # fmt: skip
    tab.wait_for_timeout(3000)


def _shot(browser: Any, path: Path, size: tuple[int, int], show: Callable[[Any], object]) -> None:
  from PIL import Image

  tab = browser.new_page(viewport={'width': size[0], 'height': size[1]})
  show(tab)
  image = Image.open(io.BytesIO(tab.screenshot())).convert('RGB')
  image.quantize(64).save(path, optimize=True)
  tab.close()


if __name__ == '__main__':
  main()
