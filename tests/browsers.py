"""A headless Chromium to drive pages with."""

import shutil
from contextlib import contextmanager

import pytest


@contextmanager
def chromium(logs=None):
    """A selenium driver, closed afterwards; the test is skipped where selenium, Chromium or its driver is missing.

    `logs` says which logs are kept, as selenium's capability goog:loggingPrefs.
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no chromium and chromedriver on the path")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run"):
        options.add_argument(f"--{argument}")
    if logs:
        options.set_capability("goog:loggingPrefs", logs)
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()
