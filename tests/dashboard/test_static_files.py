"""The files of the live page: small, and complete without any other."""

import re
from pathlib import Path

import pytest

from rustygate import dashboard

STATIC = Path(dashboard.__file__).parent / "static"
FILES = sorted(STATIC.iterdir())

# What a browser loads to show the page, in all.
SIZE_LIMIT = 60_000


def test_files_stay_small() -> None:
    assert 0 < sum(path.stat().st_size for path in FILES) <= SIZE_LIMIT


def referenced() -> set[str]:
    """The names of the files that the page and its scripts load."""
    page = (STATIC / "index.html").read_text()
    scripts = "".join(path.read_text() for path in STATIC.glob("*.js"))
    return set(re.findall(r'"gate/([a-z]+\.[a-z]+)"', page)) | set(
        re.findall(r'from "\./([a-z]+\.js)"', scripts)
    )


def test_every_file_is_loaded_and_every_loaded_file_is_there() -> None:
    assert referenced() | {"index.html"} == {path.name for path in FILES}


def test_page_preloads_every_script() -> None:
    page = (STATIC / "index.html").read_text()
    preloaded = set(re.findall(r'rel="modulepreload" href="gate/([a-z]+\.js)"', page))
    assert preloaded | {"app.js"} == {path.name for path in STATIC.glob("*.js")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_names_no_other_site_and_sets_no_markup(path: Path) -> None:
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    for forbidden in ("//www", "http:", "https:", "@import", "url(", "innerHTML", "outerHTML"):
        assert forbidden not in text
    for forbidden in ("insertAdjacentHTML", "document.write", "eval(", " style=", " onclick="):
        assert forbidden not in text
