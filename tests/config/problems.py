"""Loads settings that are expected to be rejected."""

from pathlib import Path

import pytest

from rustygate.config import (
    ConfigError,
    load,
)

SECRET = "sk-proj-0123456789-abcdefghij-wxyz"
KEY = {"OPENAI_API_KEY": SECRET}


def problems(environ: dict[str, str], dotenv: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(environ, dotenv=dotenv)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems
