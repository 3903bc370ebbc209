"""The packages that some settings need, besides those that every installation has."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec

from rustygate.config import names
from rustygate.config.masking import MASKED


def package_problems(variables: Mapping[str, str]) -> Iterator[str]:
    """One line for each package that is missing."""
    if names.REDIS_URL in variables and find_spec("redis") is None:
        yield (
            f"{names.REDIS_URL}={MASKED}: expected the package redis to be installed; run "
            f"`pip install 'rustygate[redis]'`, or unset {names.REDIS_URL}"
        )
