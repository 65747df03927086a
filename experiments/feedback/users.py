"""Scripted users of a served chat like answers that reason first, and a round is trained on that.

python -m experiments.feedback.users --policy=runs/gpt/sft --out=runs/users

For each seed the policy is served by job `serve`, twenty users ask word problems and rate answers
over HTTP, job `feedback` makes the rows, and the DPO of a second round learns from them. Held-out
problems are answered greedily before and after. What is there already is not made again.
"""

import argparse
import http.client
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import llm_jax
from configs import pipeline
from llm_jax.data import word_problems
from llm_jax.jobs import rounds
from llm_jax.main import run
from llm_jax.rewards import exact_answer, reasons_first

USERS, MODEL = 20, 'assistant'
_ANSWER_FIRST = re.compile(r'(The answer is [^.]*\.) (.+)', re.DOTALL)


class Server:
  """Job `serve` as a process of its own, which keeps events in a file."""

  def __init__(self, policy: str, events: Path) -> None:
    words = ['--config=serve', f'--config.artifacts.{MODEL}={policy}', '--config.port=0']
    words += [f'--config.events={events}', '--config.log=False', '--config.engine.length=256']
    command = [sys.executable, '-u', '-m', 'llm_jax.main', *words]
    self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in self.process.stdout or ():
      if found := re.search(r'http://127\.0\.0\.1:(\d+)/v1', line):  # once it is ready
        self.port = int(found[1])
        return
    raise SystemExit('the server did not start')

  def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
    link = http.client.HTTPConnection('127.0.0.1', self.port, timeout=300)
    link.request('POST', path, json.dumps(body), {'content-type': 'application/json'})
    answer = link.getresponse()
    told = json.loads(answer.read())
    if answer.status != 200:
      raise SystemExit(f'{path}: {told}')
    return told

  def end(self) -> None:
    self.process.send_signal(signal.SIGTERM)
    self.process.wait()


def talk(server: Server, number: int, question: str, seed: int) -> list[str]:
  """One conversation: two drafts are asked for, and rated. What was done."""
  asked = {'model': MODEL, 'messages': [{'role': 'user', 'content': question}]}
  how = {'temperature': 1.0, 'seed': seed * 100_000 + number, 'max_tokens': 96}
  found = server.post('/v1/chat/completions', {**asked, **how, 'n': 2})['choices']
  drafts = [
    {'id': f'{number}.{i}', 'text': one['message']['content'], 'finish': one['finish_reason']}
    for i, one in enumerate(found)
  ]
  good = [one for one in drafts if reasons_first.reward(one['text'], '') > 0]
  about = {**asked, 'conversation': f'{seed}.{number}', 'annotator': f'user{number % USERS}'}
  done = []

  def say(of: dict[str, Any], **value: Any) -> None:
    others = [one for one in drafts if one is not of] if value['act'] == 'pick' else []
    event = {**about, 'answer': {**of, 'others': others}, 'item': of['id'], 'value': value}
    done.append(value['act'])
    server.post('/events', {**event, 'store': True, 'client': f'{seed}.{number}.{len(done)}'})

  if len(good) == 1:
    say(good[0], act='pick', kept=good[0]['id'], shown=[one['id'] for one in drafts])
  if good:
    say(good[0], act='thumb', grade=1)
    return done
  say(drafts[0], act='thumb', grade=-1, tags=['not what I asked'])
  if turned := _ANSWER_FIRST.fullmatch(drafts[0]['text']):
    say(drafts[0], act='edit', text=f'{turned[2]} {turned[1]}')
  return done


def measured(path: str, count: int) -> dict[str, float]:
  """Shares of held-out problems."""
  asked = word_problems.questions('test')[:count]
  model = llm_jax.load(path)
  said = model.generate([one['prompt'] for one in asked], max_new=96, temperature=0.0)
  golds = [one['answer'] for one in asked]
  return {
    'reasons_first': statistics.mean(map(reasons_first.reward, said, golds)),
    'exact_answer': statistics.mean(map(exact_answer.reward, said, golds)),
  }


def round_of(args: argparse.Namespace, folder: Path, seed: int) -> Any:
  """The pipeline whose first round is there already, with the stages of a second one."""
  c = pipeline.build('users', ('tokenize', 'pretrain', 'sft'))
  c.workdir, c.seed, c.rounds = str(folder), seed, 2
  c.sft.workdir, c.again.stages = args.policy, ('feedback', 'dpo')
  stage = c.again.dpo
  stage.total_steps, stage.eval_every, stage.checkpoint_every = args.steps, args.steps, args.steps
  stage.sample.prompts = ()
  rounds.expand(c)
  return c


def main() -> None:
  """Prints a JSON row for each seed, then means and spreads."""
  parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
  parser.add_argument('--policy', default='runs/gpt/sft')
  parser.add_argument('--out', default='runs/users')
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument('--talks', type=int, default=150, help='conversations of a seed')
  parser.add_argument('--steps', type=int, default=60, help='of DPO')
  parser.add_argument('--held-out', type=int, default=100, help='problems')
  args = parser.parse_args()
  before = measured(args.policy, args.held_out)
  print(json.dumps({'before': before}), flush=True)
  found = []
  for seed in args.seeds:
    folder = Path(args.out) / f'seed{seed}'
    c, began = round_of(args, folder, seed), time.perf_counter()
    if not Path(c.again.feedback.events).is_file():
      problems = word_problems.questions('train')[seed * args.talks :][: args.talks]
      server = Server(args.policy, Path(c.again.feedback.events))
      try:
        for number, one in enumerate(problems):
          talk(server, number, one['prompt'][-1]['content'], seed)
      finally:
        server.end()
    for name in rounds.of(c)[1]:
      run(c[name])
    rows = json.loads((folder / 'round2' / 'feedback' / 'export.json').read_text())['rows']
    after = measured(c.round2_dpo.workdir, args.held_out)
    found.append(after)
    passed = round(time.perf_counter() - began)
    print(json.dumps({'seed': seed, 'rows': rows, **after, 'seconds': passed}), flush=True)
  for name in before:
    values = [one[name] for one in found]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    print(f'{name}: {before[name]:.3f} before, {statistics.mean(values):.3f} ± {spread:.3f} after')


if __name__ == '__main__':
  main()
