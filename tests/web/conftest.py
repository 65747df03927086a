"""The browser that the tests of this folder share."""

import shutil

import pytest

BROWSER = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None
)


# Of each file: its loop runs until it ends, and no test of another file could start its own.
@pytest.fixture(scope='module')
def browser():
  playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
  if BROWSER is None:
    pytest.skip('no Chromium or Chrome on this machine')
  with playwright.sync_playwright() as made:
    yield made.chromium.launch(executable_path=BROWSER, args=['--no-sandbox'])
