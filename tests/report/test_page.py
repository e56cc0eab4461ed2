"""The report as text and in a real browser."""

import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import cnnsplitter.figures
from cnnsplitter.errors import StorageError
from cnnsplitter.report import Report, read_report
from cnnsplitter.report.page import render, write_page
from cnnsplitter.results import write_json
from pages import EVIL, facts, subtask_facts

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
LARGEST = 3_000_000


class Tags(HTMLParser):
    """All tags and attribute values of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.values: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.values += [(name, value or "") for name, value in attrs]


@pytest.fixture(scope="module")
def page() -> str:
    return render({"runs/a": facts()})


@pytest.fixture(scope="module")
def both() -> str:
    return render({"runs/a": facts(), "runs/b": facts("$x$", "Another")})


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cnnsplitter.figures, "as_svg", lambda *figure: "<svg></svg>")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip("no chromium")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


def test_the_page_loads_nothing_and_has_one_script(page: str) -> None:
    tags = Tags(page)
    assert tags.names.count("script") == 1
    loads = [value for name, value in tags.values if name in ("src", "href", "xlink:href")]
    assert loads
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in loads)
    assert len(page) < LARGEST


def test_ids_are_unique(page: str, both: str) -> None:
    for text in (page, both):
        ids = [value for name, value in Tags(text).values if name == "id"]
        assert len(ids) == len(set(ids))


def test_equal_facts_give_equal_pages(page: str, tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", {"runs/a": facts()})
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


def test_several_runs_are_compared(both: str) -> None:
    assert "Comparison of 2 runs" in both
    assert both.count("runs/b") == 4  # in two tables, the numbers of the front, and its heading


def test_the_front_of_a_search_and_of_several_runs(page: str, both: str) -> None:
    assert page.count("<h3>Accuracy against multiply-adds</h3>") == 1
    assert both.count("<h3>Accuracy against multiply-adds</h3>") == 2
    assert "<h2>Accuracy against multiply-adds</h2>" in both
    assert "<h2>Accuracy against multiply-adds</h2>" not in page


def test_the_comparison_tells_search_seed_intervals_and_cost(both: str) -> None:
    tables = re.findall(r"<caption>.*?</table>", both, re.DOTALL)[:2]
    modules, patches = (rows_of(table) for table in tables)
    assert [row["run"] for row in modules] == [row["run"] for row in patches]
    assert modules[0]["search"] == "gradient, compensated"
    assert modules[0]["seed"] == "0"
    assert modules[0]["multiply-adds kept"] == "25.0\u00a0%"
    assert [row["class"] for row in patches] == [EVIL, "$x$"]
    assert patches[0]["multiply-adds"] == "1,000 → 3,000"
    assert patches[0]["latency, ms"] == "1.500 → 4.500"


def rows_of(table: str) -> list[dict[str, str]]:
    """The cells of each row by the names of their columns."""
    heads = re.findall(r'<th scope="col">(.*?)</th>', table)
    rows = table.partition("<tbody>")[2].split("</tr>")[:-1]
    cells = [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]
    return [dict(zip(heads, map(unescape, row), strict=True)) for row in cells]


@pytest.mark.usefixtures("undrawn")
def test_a_comparison_tells_the_cost_with_gates_and_the_intervals() -> None:
    report = with_intervals(facts())
    gated = {"model": f"gated, runs {EVIL} on 44% of the images", "multiply_adds": 1880}
    page = render({"a": report.model_copy(update={"costs": [*report.costs, gated]}), "b": facts()})
    assert "<td>1,000 → 1,880</td><td>-</td>" in page
    assert '<span class="low">(+5.5 to +20.0)</span>' in page


def with_intervals(report: Report) -> Report:
    """The report with the ends of the intervals of its patch's changes."""
    ends = {"f1_change_low": 0.055, "f1_change_high": 0.2}
    ends |= {
        f"{name}_change_{end}": 0.0
        for name in ("precision", "recall", "other")
        for end in ("low", "high")
    }
    return report.model_copy(update={"patches": [{**report.patches[0], **ends}]})


def test_the_story_names_models_and_data(page: str) -> None:
    (story,) = re.findall(r'<ol class="flow">.*?</ol>', page, re.DOTALL)
    strong, modules, weak, patched = re.findall(r"<li>.*?</li>", story, re.DOTALL)
    assert "<b>rescnn</b>" in strong
    assert "90.0\u00a0% right on 359 test images of photos" in strong
    assert "1,000 for training" in strong
    assert "10, one per class" in modules
    assert "87.5\u00a0% right side by side" in modules
    right = sum(row[i] for i, row in enumerate(facts().evidence[0].confusion_before))
    accuracy = right / sum(map(sum, facts().evidence[0].confusion_before))
    assert "<b>lenet5</b>" in weak
    assert f"{100 * accuracy:.1f}\u00a0% right on 359 test images of sketches" in weak
    assert "lenet5 with a class module" in patched


@pytest.mark.usefixtures("undrawn")
def test_a_split_is_told_without_weak_models() -> None:
    split = facts().model_copy(update={"patches": [], "evidence": []})
    assert "<caption>Patches" not in render({"a": split, "b": split})
    page = render({"a": split})
    assert page.count("<li>") == 2
    assert 'data-tab="Patch"' not in page
    assert 'data-tab="Class modules"' in page


@pytest.mark.usefixtures("undrawn")
def test_a_patch_alone_is_told_without_class_modules() -> None:
    whole = facts()
    about_modules = ("classes", "layers", "kept", "modules", "overlap", "history")
    dropped: dict[str, Any] = {name: [] for name in about_modules}
    dropped |= {"sensitivity": None, "start_ratios": {}}
    unknown = {"strong_accuracy": None, "composed_accuracy": None}
    alone = Report.model_validate({**whole.model_dump(), **dropped, **unknown})
    text = render({"patch": alone})
    assert "Weak model" in text
    assert "What the patch of" in text
    assert "Strong model" not in text
    assert 'data-tab="Class modules"' not in text
    both = render({"run": whole, "patch": alone})
    assert both.count('data-tab="Class modules"') == 1
    wrong: list[dict[str, Any]] = [{"patches": [], "evidence": []}, {"classes": ["cat"]}]
    for changes in wrong:
        with pytest.raises(ValidationError):
            Report.model_validate({**alone.model_dump(), **changes})


@pytest.mark.usefixtures("undrawn")
def test_changes_have_their_intervals_where_they_are_known(page: str) -> None:
    assert "(+5.5 to +20.0)" in render({"a": with_intervals(facts())})
    assert " to +" not in page


@pytest.mark.usefixtures("undrawn")
def test_several_patches_are_told_in_one_page() -> None:
    one, other = facts(), facts("$x$")
    both = {"patches": one.patches + other.patches, "evidence": one.evidence + other.evidence}
    page = render({"a": one.model_copy(update=both)})
    ids = [value for name, value in Tags(page).values if name == "id"]
    assert len(ids) == len(set(ids))
    assert "What the patch of $x$ changed" in page
    assert page.count("<h3>Confusion matrices, patch of") == 2


def test_facts_survive_their_file(tmp_path: Path) -> None:
    write_json(tmp_path / "report.json", facts().model_dump(mode="json"))
    assert read_report(tmp_path / "report.json") == facts()


@pytest.mark.parametrize("value", [[], {"title": "x"}, {**facts().model_dump(), "kept": "all"}])
def test_a_foreign_report_is_refused(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "report.json", value)
    with pytest.raises(StorageError, match=r"report\.json: is no report"):
        read_report(tmp_path / "report.json")


@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (390, "dark")])
def test_the_page_in_a_browser(
    browser: Any, both: str, tmp_path: Path, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe")
    (tmp_path / "report.html").write_text(both, encoding="utf-8")
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    troubles: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: troubles.append(message.text))
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(f"file://{tmp_path}/report.html")

    assert tab.title() == "CNNSplitter: comparison of runs"
    assert EVIL in tab.locator("#run0").inner_text()
    story = tab.locator("#run0")
    story.get_by_role("tab", name="Class modules").click()
    assert story.get_by_role("tabpanel").count() == 1
    assert story.get_by_role("heading", name="Overlap between class modules").is_visible()
    story.get_by_role("tab", name="Class modules").press("ArrowLeft")
    assert story.get_by_role("heading", name="The patch in detail").is_visible()

    story.get_by_role("button", name="Enlarge the image").first.click()
    assert tab.get_by_role("dialog").locator("img").is_visible()
    tab.keyboard.press("Escape")
    assert tab.get_by_role("dialog").count() == 0
    inline = story.locator("figure svg").first.bounding_box()
    story.get_by_role("button", name="Enlarge the figure").first.click()
    enlarged = tab.get_by_role("dialog").locator("svg")
    assert enlarged.is_visible()
    assert enlarged.bounding_box()["width"] > 1.2 * inline["width"]
    tab.get_by_role("button", name="Close").click()

    story.get_by_text("Numbers: Confusion matrices").click()
    numbers = story.get_by_role("table", name="Confusion matrices")
    assert numbers.get_by_role("columnheader").count() == 11
    assert numbers.get_by_role("rowheader", name=EVIL).is_visible()
    for summary in story.locator("summary").all():
        summary.evaluate("one => { one.parentElement.open = true; }")
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    found = axe.Axe().run(tab).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []
    assert troubles == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


def test_a_sub_task_in_a_browser(browser: Any, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe")
    (tmp_path / "report.html").write_text(render({"task": subtask_facts()}), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    troubles: list[str] = []
    tab.on("console", lambda message: troubles.append(message.text))
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.goto(f"file://{tmp_path}/report.html")
    assert tab.get_by_role("tab").all_inner_texts() == ["Sub-task", "Cost", "Repeat it"]
    assert tab.get_by_role("heading", name=f"The network of cat, {EVIL}").is_visible()
    ways = tab.get_by_role("table", name="Ways to do the sub-task")
    assert ways.get_by_role("row", name="class modules").inner_text().split("\t")[1:] == [
        *("80.0\u00a0%", "10", "1,000", "200.0\u00a0%"),
    ]
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    found = axe.Axe().run(tab).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []
    assert troubles == []


@pytest.mark.usefixtures("undrawn")
def test_a_sub_task_is_no_class_module() -> None:
    page = render({"task": subtask_facts("dog"), "runs/a": facts()})
    story = page[page.index('id="run0"') : page.index('id="run1"')]
    assert "87.5\u00a0% right on the same images" in story
    assert "it keeps 50.0\u00a0% of the kernels and 25.0\u00a0% of the multiply-adds." in story
    assert "Kernels that the network keeps" in story
    assert "each class module" not in story
    assert "Overlap between" not in story


def test_print_shows_every_part(browser: Any, page: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    tab = browser.new_page()
    tab.goto(f"file://{tmp_path}/report.html")
    tab.emulate_media(media="print")
    assert tab.locator(".panel").count() == 4
    assert all(panel.is_visible() for panel in tab.locator(".panel").all())
    assert tab.locator(".flips img").first.is_visible()
    assert not tab.locator("button", has_text="Enlarge").first.is_visible()


def test_the_share_of_kernels_is_that_of_the_class_modules(page: str) -> None:
    assert "each keeps 50.0\u00a0% of the kernels and 25.0\u00a0% of the multiply-adds" in page
    assert "<td>50.0\u00a0%</td>" in page


@pytest.mark.usefixtures("undrawn")
def test_examples_of_many_images_say_so() -> None:
    report = facts()
    (found,) = report.evidence
    more = found.model_copy(update={"won_count": len(found.won) + 1})
    page = render({"a": report.model_copy(update={"evidence": [more]})})
    assert f"put right: {len(found.won) + 1}</h3>" in page
    assert page.count(f"{len(found.won)} of them.") == 1


@pytest.mark.usefixtures("undrawn")
def test_a_report_without_sensitivity_says_why_and_what_is_kept(page: str) -> None:
    given = facts().model_copy(update={"sensitivity": None})
    neither = given.model_copy(update={"start_ratios": {}})
    assert "no sensitivity curves were measured" not in page
    assert "which were given, so that no sensitivity curves" in render({"a": given})
    assert "starts from no keep-ratios, so no sensitivity curves" in render({"a": neither})
    assert "<h3>Kernels kept, layer by layer</h3>" in render({"a": neither})


def test_curves_of_other_layers_are_refused() -> None:
    curves = {"ratios": [0.5, 1.0], "accuracy": {"other": [0.5, 0.9]}}
    with pytest.raises(StorageError, match="its layers are not those of the search"):
        render({"a": facts().model_copy(update={"sensitivity": curves})})


def test_every_figure_has_its_numbers(both: str) -> None:
    assert both.count("<figure>") == both.count("<details>") == both.count("</details>")
    for table in re.findall(r"<details>.*?</details>", both, re.DOTALL):
        body = re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2], re.DOTALL)
        width = table.count('<th scope="col">')
        assert body
        assert "<caption>" in table
        for row in body:
            assert row.startswith('<th scope="row">')
            assert row.count("<td>") == width - 1
