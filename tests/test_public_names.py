"""The reference names all that `import wenable` offers."""

import re
from pathlib import Path

import pytest

import wenable

API = (Path(__file__).parents[1] / "docs" / "reference" / "api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [each for each in dir(wenable) if each != "__version__"])
def test_a_public_name_is_in_the_reference(name: str):
    assert re.search(rf"^\.\. auto\w+:: wenable\.{name}$", API, re.MULTILINE)
