"""A ladder of sizes, the law L(N, D) = E + A / N^alpha + B / D^beta through it, and the next rung.

The law is Chinchilla's (arXiv:2203.15556, eq. 2), fitted by a Huber loss between logarithms, from
a grid of starts. The rung above is predicted before it runs.

    python -m experiments.scaling.ladder
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
from scipy import optimize, special

from llm_jax.main import read_config
from llm_jax.main import run as run_config
from llm_jax.parallel.flags import tune_cpu
from llm_jax.training import metrics

TOKENS = 16 * 256  # of a step
RUNGS = ((32, 2), (48, 2), (64, 3), (96, 4))  # dim, layers
STEPS = (50, 100, 200)
NEXT = ((128, 6), 200)
HUBER = 1e-3
FOLDER = Path('runs/scaling')


def config_of(dim: int, layers: int, steps: int):
  """A pretraining config of one rung; its schedule ends with its budget."""
  return read_config(
    [
      'ladder',
      '--config=configs/pretrain.py',
      f'--config.workdir={FOLDER}/{dim}x{layers}-{steps}',
      f'--config.model.dim={dim}',
      f'--config.model.num_layers={layers}',
      '--config.model.num_heads=2' if dim < 64 else '--config.model.num_heads=4',
      f'--config.total_steps={steps}',
      f'--config.optimizer.warmup_steps={steps // 10}',
      f'--config.eval_every={steps}',
      f'--config.checkpoint_every={steps // 2}',
      '--config.evals.validation.max_rows=139',
      '--config.sample.prompts=()',
    ]
  )


def measure(dim: int, layers: int, steps: int) -> tuple[float, float, float]:
  """Parameters N, tokens D and the validation loss in nats a token of one run."""
  from llm_jax import artifact

  config = config_of(dim, layers, steps)
  run_config(config)
  found = [r for r in metrics.read(config.workdir) if 'validation/loss' in r][-1]
  count = artifact.build(config.model.to_dict()).num_params()
  return float(count), float(steps * TOKENS), found['validation/loss']


def law(theta: np.ndarray, n: np.ndarray, d: np.ndarray) -> np.ndarray:
  """log L of (log A, log B, log E, alpha, beta)."""
  a, b, e, alpha, beta = theta
  parts = [a - alpha * np.log(n), b - beta * np.log(d), np.broadcast_to(e, np.shape(n))]
  return special.logsumexp(np.stack(parts), axis=0)


def fit(runs: np.ndarray) -> np.ndarray:
  """The five numbers of the law through runs [R, 3] of N, D and L."""
  n, d, loss = runs.T
  apart = lambda theta: law(theta, n, d) - np.log(loss)
  starts = itertools.product((0, 10), (0, 10), (-1, 1), (0.2, 0.7), (0.2, 0.7))
  within = ([-np.inf] * 3 + [0, 0], [np.inf] * 3 + [2, 2])
  # In place of L-BFGS, which stops too early on a loss this flat.
  solve = lambda start: optimize.least_squares(
    apart, start, loss='huber', f_scale=HUBER, bounds=within
  )
  return min(map(solve, starts), key=lambda result: result.cost).x


def draw(
  path: Path, runs: np.ndarray, theta: np.ndarray, ahead: tuple[float, float, float]
) -> None:
  """Losses over tokens, a line for each size, and the rung that was predicted."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(7, 4.5), layout='constrained')
  axes = figure.subplots()
  grid = np.geomspace(runs[:, 1].min(), runs[:, 1].max() * 1.2, 50)
  for i, n in enumerate(sorted({*runs[:, 0], ahead[0]})):
    mine = runs[runs[:, 0] == n]
    line = np.exp(law(theta, np.full_like(grid, n), grid))
    axes.plot(grid, line, color=f'C{i}', lw=1, label=f'N = {n / 1e6:.2f}M')
    axes.plot(mine[:, 1], mine[:, 2], 'o', color=f'C{i}')
  axes.plot(ahead[1], ahead[2], '*', ms=14, color='black', label='the next rung, as measured')
  axes.set(xscale='log', xlabel='tokens D', ylabel='validation loss (nats a token)')
  axes.grid(alpha=0.3)
  axes.legend(fontsize=8)
  figure.savefig(path, dpi=150)


def check_law() -> None:
  """Whether the fit finds numbers that it is given; raises AssertionError."""
  theta = np.array([4.0, 5.0, 0.5, 0.35, 0.4])
  n, d = (x.ravel() for x in np.meshgrid([1e5, 2e5, 5e5, 1e6], [2e5, 4e5, 8e5]))
  found = fit(np.stack([n, d, np.exp(law(theta, n, d))], 1))
  ahead = np.array([2e6]), np.array([1.6e6])
  np.testing.assert_allclose(law(found, *ahead), law(theta, *ahead), atol=2e-3)


def run() -> None:
  """Runs the ladder, or reads it back, and prints one JSON table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--picture', default='experiments/scaling/ladder.png')
  options = parser.parse_args()
  tune_cpu()
  check_law()
  runs = np.array([measure(*rung, steps) for rung in RUNGS for steps in STEPS])
  theta = fit(runs)
  size, steps = NEXT
  from llm_jax import artifact

  n = float(artifact.build(config_of(*size, steps).model.to_dict()).num_params())
  d = float(steps * TOKENS)
  predicted = float(np.exp(law(theta, np.array([n]), np.array([d]))[0]))
  (FOLDER / 'predicted.json').write_text(json.dumps({'N': n, 'D': d, 'loss': predicted}))
  print(f'predicted before it runs: {predicted:.4f} nats a token', flush=True)
  ahead = measure(*size, steps)
  draw(Path(options.picture), runs, theta, ahead)
  residual = np.exp(law(theta, runs[:, 0], runs[:, 1])) / runs[:, 2] - 1
  table = {
    'runs': [{'N': int(n), 'D': int(d), 'loss': round(loss, 4)} for n, d, loss in runs],
    'law': dict(zip(('log A', 'log B', 'log E', 'alpha', 'beta'), theta.round(3), strict=True)),
    'largest residual': round(float(np.abs(residual).max()), 4),
    'next rung': {'N': int(ahead[0]), 'D': int(ahead[1]), 'predicted': round(predicted, 4)},
    'measured': round(ahead[2], 4),
    'prediction error': round(predicted / ahead[2] - 1, 4),
  }
  print(json.dumps(table, indent=2))


if __name__ == '__main__':
  run()
