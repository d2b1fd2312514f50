"""Every example runs, and says what it promises."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_own_network():
    command = [sys.executable, "-W", "error", str(EXAMPLES / "own_network.py")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "left alone: 0 has 1 input channels" in shown
    assert "mode 1/" in shown.splitlines()[-1]
    assert "on the test split 9" in shown


def test_every_example_has_its_test():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"own_network.py"}
