"""The machine that a program runs on, in a line for people."""

import os
import platform
import re
import subprocess
from pathlib import Path


def machine() -> str:
  """Processor, cores, memory and system, as far as they are known; no name of host or user."""
  parts = [_processor(), f'{os.cpu_count()} cores', _memory()]
  parts.append(f'{platform.system()}, Python {platform.python_version()}')
  return ', '.join(part for part in parts if part)


def _processor() -> str:
  """The model of the processor, or else its kind."""
  try:
    if platform.system() == 'Darwin':
      words = ['sysctl', '-n', 'machdep.cpu.brand_string']
      said = subprocess.run(words, capture_output=True, text=True, timeout=5).stdout.strip()
    else:
      text = Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace')
      found = re.search(r'^model name\s*:\s*(.+)$', text, re.MULTILINE)
      said = found[1].strip() if found else ''
  except (OSError, subprocess.SubprocessError):
    said = ''
  return said if said and said != 'unknown' else platform.machine()


def _memory() -> str:
  try:
    size = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  except (ValueError, OSError, AttributeError):
    return ''
  return f'{size / 2**30:.0f} GB of memory'
