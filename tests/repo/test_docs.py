"""The documentation agrees with the code: tables, links, paths, a plan, and the fair order."""

import ast
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from rustygate import cli, errors
from rustygate.admission.group import messages
from rustygate.admission.group.store import StoreRefused, StoreUnavailable, StoreUnready
from rustygate.core import clients, headers
from rustygate.core.bucket import SECOND
from rustygate.core.fair_order import CLASS_WEIGHTS
from rustygate.errors import Refusal, reasons
from scripts.benchmarks import fairness
from tests.support.metrics import BUDGET_TYPES, GROUP_TYPES, TYPES, WORKER_TYPES

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *DOCS, ROOT / "scripts/README.md"]
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
README_LINES_LIMIT = 150

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def rows(page: str) -> list[list[str]]:
    """The cells of all table rows of a page whose first cell is code."""
    lines = map(str.strip, (ROOT / page).read_text().splitlines())
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in lines
        if line.startswith("| `")
    ]


def section(page: str, heading: str) -> str:
    """The text under a heading, up to the next one."""
    _, found, rest = (ROOT / page).read_text().partition(f"\n{heading}\n")
    assert found, heading
    return re.split(r"^#", rest, maxsplit=1, flags=re.M)[0]


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES_LIMIT


# Tables.


def refusals(kind: type[Refusal] = Refusal) -> Iterator[type[Refusal]]:
    """All kinds of refusals that have a reason."""
    if hasattr(kind, "reason"):
        yield kind
    for each in kind.__subclasses__():
        yield from refusals(each)


def test_docs_list_every_error_reason_with_its_status() -> None:
    documented = {row[0].strip("`"): row[1] for row in rows("docs/errors.md") if len(row) == 5}
    assert documented == {each.reason: str(each.status) for each in refusals()}
    assert set(documented) == reasons()


def test_docs_list_every_error_reason_with_its_type_and_code() -> None:
    documented = {row[0].strip("`"): row[2:4] for row in rows("docs/errors.md") if len(row) == 5}
    for each in refusals():
        kind, code = documented[each.reason]
        assert f"`{each.type}`" in kind or "`requests` or `tokens`" in kind
        assert code == f"`{each.code or each.reason}`"


def test_tree_at_the_head_of_the_errors_lists_every_refusal() -> None:
    tree = dict(re.findall(r"\+-- (\w+) +(\d+  \w+)$", errors.__doc__ or "", re.M))
    listed = {
        each: f"{each.status}  {each.reason}" for each in refusals() if "reason" in vars(each)
    }
    assert tree == {each.__name__: row for each, row in listed.items()}


def test_docs_list_the_reasons_with_each_retry_header() -> None:
    retried = section("docs/errors.md", "## Retry headers")
    for each in refusals():
        assert each.retry is None or f"`{each.reason}`" in retried


def test_docs_list_every_metric() -> None:
    named = " ".join(row[0] for row in rows("docs/metrics.md"))
    names = re.findall(r"\brustygate_\w+", named)
    documented = [name.removesuffix("_total") for name in names]
    assert documented == [*TYPES, *BUDGET_TYPES, *WORKER_TYPES, *GROUP_TYPES]


def test_docs_state_the_share_of_each_class() -> None:
    table = {row[0].strip("`"): row[1] for row in rows("docs/fairness.md") if len(row) == 2}
    shares = {name: str(weight) for name, weight in CLASS_WEIGHTS.items()}
    assert table.items() >= shares.items()
    ratio = ":".join(shares.values())
    for page in ("README.md", "docs/fairness.md"):
        assert ratio in (ROOT / page).read_text()


def test_docs_list_every_command() -> None:
    commands = [row[0] for row in rows("docs/getting-started.md")]
    assert [c for c in commands if c.startswith("`rustygate")] == [
        f"`rustygate {name}`" for name in cli.COMMANDS
    ]


def test_docs_show_every_key_of_a_client() -> None:
    table = section("docs/clients.md", "## The clients file").split("```")[1]
    assert re.findall(r"^(\w+) =", table, re.M) == list(clients._PARSERS)


@pytest.mark.parametrize(
    ("heading", "dropped"),
    [
        ("### Request headers that are dropped", headers._REQUEST_DROPS),
        ("### Request headers that are dropped", headers._REQUEST_DROP_PREFIXES),
        ("### Response headers that are dropped", headers._RESPONSE_DROPS),
        ("### Response headers that are dropped", headers._RESPONSE_DROP_PREFIXES),
    ],
)
def test_docs_list_every_dropped_header(heading: str, dropped: Iterable[str]) -> None:
    names = re.findall(r"`([\w-]+)\*?`", section("docs/streaming.md", heading))
    assert set(dropped) <= {name.lower() for name in names}


# Links and paths.


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.M)}


@each_page
def test_links_between_pages_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_rows_of_a_table_have_as_many_cells_as_its_head(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for table in re.findall(r"(?:^ *\|.*\n)+", text, re.M):
        head, *body = [len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()]
        assert set(body) == {head}, table


def test_pictures_of_the_live_page_are_there_and_small() -> None:
    pictures = re.findall(r'"(docs/images/[\w-]+\.webp)"', (ROOT / "README.md").read_text())
    assert [Path(picture).stem for picture in pictures] == ["live-page-dark", "live-page-light"]
    sizes = [(ROOT / picture).stat().st_size for picture in pictures]
    assert all(20_000 < size <= 150_000 for size in sizes)


def test_readme_links_every_page_of_the_docs() -> None:
    links = set(re.findall(r"\]\(docs/([\w-]+\.md)", (ROOT / "README.md").read_text()))
    assert links == {page.name for page in DOCS}


def test_architecture_lists_every_module() -> None:
    modules = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "rustygate").rglob("*.py")
        if path.name != "__init__.py"
    }
    assert {path for path in modules if f"`{path}`" not in ARCHITECTURE} == set()


@each_page
def test_paths_that_a_page_names_exist(page: Path) -> None:
    paths = re.findall(r"`((?:rustygate|tests|scripts|docs)/[\w./-]*)`", page.read_text())
    assert [path for path in paths if not (ROOT / path).exists()] == []


# Many gates.


def strings(path: Path) -> str:
    """All strings in a module, each as one, and a space for each placeholder."""
    nodes = ast.walk(ast.parse(path.read_text()))
    texts = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return "\n".join(re.sub(r"{[^}]*}", " ", text) for text in texts if isinstance(text, str))


def test_log_lines_of_a_group_are_those_of_its_members() -> None:
    logged = strings(ROOT / "rustygate/admission/group/member.py")
    logged += (ROOT / "rustygate/admission/group/sync/main.lua").read_text()
    for kind in (StoreUnavailable, StoreUnready, StoreRefused):
        for share in (0.27, None):
            logged += messages.alone("NAME", kind("REASON"), share) + "\n"
    limits = messages.different_limits([SECOND // 50, 1, 1, 1, 1], [SECOND // 5, 1, 1, 1, 1])
    logged += f"have different limits: {limits}; the strictest value of each applies to all"
    table = section("docs/many-gates.md", "## What happens when something fails")
    lines = [cells[4] for line in table.splitlines() if len(cells := line.split("|")) == 7]
    quoted = re.findall(r"`([^`]+)`", "".join(lines))
    assert len(quoted) == 10
    for line in quoted:
        for part in re.split(r"NAME|REASON|\d+%?", line):
            assert part.strip() in logged


# The plan.


def test_printed_plan_is_that_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    pattern = r"scripts/rustygate (plan [^`]+)```\n\n```\n(client [^`]+)```"
    [(command, printed)] = re.findall(pattern, (ROOT / "docs/simulator.md").read_text())
    assert cli.main(shlex.split(command.replace("\\\n", ""))) == 0
    assert capsys.readouterr().out == printed


# The picture of the order.


@pytest.fixture(scope="module")
def runs() -> dict[str, list[fairness.Wait]]:
    """The waits that the picture shows, measured again."""
    return fairness.measure()


def test_picture_of_the_order_is_current(runs: dict[str, list[fairness.Wait]]) -> None:
    assert (ROOT / "docs/fairness.svg").read_text() == fairness.picture(runs)


def test_table_below_the_picture_is_current(runs: dict[str, list[fairness.Wait]]) -> None:
    assert "\n".join(fairness.table(runs)) in (ROOT / "docs/fairness.md").read_text()
