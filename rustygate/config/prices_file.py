"""The file of `PRICES_FILE`: read as a whole or rejected. `core.price_list` parses it."""

from rustygate.config.table_files import TableFileError, read_table
from rustygate.core.price_list import ModelPrice, PricesError, parse_prices


def read_prices_file(path: str) -> dict[str, ModelPrice]:
    """The prices in a file, by model name or shell pattern. Raises PricesError."""
    try:
        return parse_prices(read_table(path))
    except TableFileError as error:
        raise PricesError([str(error)]) from error
