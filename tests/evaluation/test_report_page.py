import html.parser
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from audits import audit_with, picture

from pipeline.evaluation import report, verdict
from pipeline.evaluation.calibrate import reliability
from pipeline.evaluation.metrics import confusion
from pipeline.evaluation.report import render
from pipeline.findings import AuditPictures

VOID = {"meta", "img", "br", "hr", "input", "link", "col", "wbr", "base", "area", "embed", "source", "track"}
HOSTILE = "<script>alert(1)</script>"
ATTRIBUTE = "\" onload=\"alert(1)' x='</svg></style>"


class Page(html.parser.HTMLParser):
    """What a browser would see: elements with their attributes, texts, and whether every element is closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.text, self._open = [], "", []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def count(self, tag: str, **attributes: str) -> int:
        return sum(t == tag and attributes.items() <= a.items() for t, a in self.elements)


def confused(num_classes: int, num_samples: int, right: float = 0.7, seed: int = 0):
    """Pixels and labels of a model that is right about this often."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, num_classes, num_samples)
    pixels_NK = rng.integers(90, 130, (num_samples, num_classes))
    answers_N = np.where(rng.random(num_samples) < right, labels_N, rng.integers(0, num_classes, num_samples))
    pixels_NK[np.arange(num_samples), answers_N] = rng.integers(150, 220, num_samples)
    return pixels_NK, labels_N


SHAPES = {
    "two classes": confused(2, 60),
    "ten classes": confused(10, 300),
    "many classes": confused(80, 400),
    "one sample": (np.array([[9, 0]]), np.array([0])),
    "one class in the split": (np.array([[9, 0, 0], [0, 9, 0]]), np.array([0, 0])),
    "no mistake": (np.eye(3, dtype=int) * 255, np.arange(3)),
    "no right answer": (np.eye(3, dtype=int) * 255, np.array([1, 2, 0])),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_page_is_whole_and_asks_for_nothing(evaluated, shape):
    pixels_NK, labels_N = SHAPES[shape]
    text = render(evaluated(pixels_NK, labels_N, slices={"camera": ["x"] * len(labels_N)}))
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert page.count("h1") == page.count("main") == 1
    assert not re.search(r"\b(nan|inf|None)\b", page.text)
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
    assert "url(" not in text
    assert "@import" not in text
    assert page.count("meta", content="default-src 'none'; style-src 'unsafe-inline'; img-src data:") == 1


def test_every_link_of_the_page_leads_to_a_section(evaluated):
    page = Page(render(evaluated(*confused(3, 50), slices={"camera": ["x"] * 50})))
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    links = [attributes["href"][1:] for tag, attributes in page.elements if tag == "a"]
    assert len(links) == 9
    assert set(links) <= ids


def test_names_and_paths_stay_text(evaluated):
    pixels_NK, labels_N = confused(3, 40)
    page = Page(
        text := render(
            evaluated(
                pixels_NK,
                labels_N,
                classes=[HOSTILE, ATTRIBUTE, "=cmd()"],
                paths=[f"{n}'\"{HOSTILE}{ATTRIBUTE}.jpg" for n in range(40)],
                slices={f"<i>{HOSTILE}": [f"{ATTRIBUTE}{n % 2}" for n in range(40)]},
            )
        )
    )
    assert "<script" not in text
    assert HOSTILE in page.text
    assert ATTRIBUTE in page.text
    assert page.count("i", style="x") == 0
    assert not any("onload" in attributes for _, attributes in page.elements)


def test_the_audit_shows_pictures_of_what_it_found_and_names_stay_text(evaluated):
    groups = [[picture(1, f"{HOSTILE}/1.jpg", ATTRIBUTE, "train"), picture(1, "2.jpg", "cat", "test")]]
    audit, pictures = audit_with(leakage=(3, 6), dark_images=(2, 2)), AuditPictures(examples={"leakage": groups})
    text = render(evaluated(*confused(3, 40), num_mistakes=0, audit=audit, pictures=pictures))
    page = Page(text)
    assert page.count("img", src=groups[0][0].data_uri) == 2
    assert "<script" not in text
    assert not any("onload" in attributes for _, attributes in page.elements)
    assert "the same bytes in more than one split" in page.text
    assert f"{HOSTILE}/1.jpg" in page.text
    assert "2 more; audit.json lists" in page.text
    assert re.search(r"Not found: duplicates, near duplicates, .*blank images, rare classes\.", page.text)


def test_an_audit_that_found_nothing_says_so(evaluated):
    page = Page(render(evaluated(*confused(3, 40))))
    assert "Nothing was found of these: duplicates," in page.text


def test_the_same_evaluation_gives_the_same_bytes(evaluated, tmp_path):
    pages, files = set(), set()
    for attempt in range(2):
        case = evaluated(*confused(5, 100), slices={"camera": ["x", "y"] * 50})
        pages.add(render(case))
        pq.write_table(case.table, tmp_path / f"{attempt}.parquet", compression="zstd")
        files.add((tmp_path / f"{attempt}.parquet").read_bytes())
    assert len(pages) == len(files) == 1


def test_no_folder_of_this_machine_is_on_the_page(evaluated):
    case = evaluated(*confused(2, 20))
    text = render(replace(case, run=case.run.model_copy(update={"tracking_uri": "sqlite:////home/jane/it/mlflow.db"})))
    assert "jane" not in text
    assert "sqlite:///mlflow.db" in text


def test_up_to_thirty_classes_have_labelled_cells_and_more_a_picture(evaluated):
    thirty, more = (render(evaluated(*confused(n, 200))) for n in (30, 31))
    assert Page(thirty).count("rect", **{"class": "cell"}) == 900
    assert 'class="compact"' not in thirty
    assert Page(more).count("img", **{"class": "compact"}) == 1
    assert Page(more).count("rect", **{"class": "cell"}) == 0


def test_long_tables_fold_their_tail_away(evaluated):
    page = Page(render(evaluated(*confused(80, 400))))
    assert page.count("details") == 2
    assert "50 more classes" in page.text
    assert page.count("tbody") == 1 + 2 + 2


def test_rows_beyond_the_limit_are_counted():
    shown, folded, left = report._split_rows(list(range(5000)))
    assert (len(shown), len(folded), left) == (30, 1970, 3000)
    assert report._split_rows([1] * 35) == ([1] * 35, [], 0)


def test_the_gallery_shows_the_surest_mistakes_first(evaluated):
    pixels_NK = np.array([[200, 0], [250, 0], [220, 0], [255, 0], [0, 9]])
    case = evaluated(pixels_NK, np.array([1, 1, 1, 0, 1]), num_mistakes=2)
    assert [m.path for m in case.mistakes] == ["photos/1.jpg", "photos/2.jpg"]
    assert {(m.actual, m.predicted, m.height, m.width) for m in case.mistakes} == {("class 1", "class 0", 24, 32)}
    page = Page(render(case))
    assert "2 of 3 wrong answers" in page.text
    assert page.count("img", loading="lazy") == 2


def test_a_run_without_validation_has_no_curve_of_it(evaluated, history):
    history["validation_loss"] = history["validation_top1"] = [float("nan")] * 3
    page = Page(render(evaluated(*confused(2, 20), history=history)))
    assert page.count("polyline") == 1


def test_a_run_without_history_has_no_training_section(evaluated, history):
    page = Page(render(evaluated(*confused(2, 20), history={name: [] for name in history})))
    assert page.count("section", id="training") == 0
    assert page.count("a", href="#training") == 0


def test_top5_is_left_out_where_it_says_nothing(evaluated):
    assert "Top-5" not in Page(render(evaluated(*confused(5, 30)))).text
    assert "Top-5" in Page(render(evaluated(*confused(6, 30)))).text


def words(case, history=None) -> list[str]:
    labels_N, predicted_N = case.table["label"].to_numpy(), case.table["predicted"].to_numpy()
    pairs = confusion(labels_N, predicted_N, len(case.index.classes))
    bins = reliability(case.table["probability"].to_numpy(), case.table["correct"].to_numpy())
    return verdict.notes(case.metrics, bins, pairs, case.index.classes, history or case.history)


def sure(answers, num_classes: int = 2):
    """Pixels of a model that gives these answers with full confidence."""
    return np.eye(num_classes, dtype=int)[np.asarray(answers)] * 255


def test_what_came_after_the_exported_epoch_is_not_held_against_the_model(evaluated):
    case = evaluated(*confused(3, 60))
    losses = [0.5, 0.4, 0.6]
    history = case.history | {"validation_loss": losses, "epoch": [1.0, 2.0, 3.0]}
    best, last = (
        Page(render(replace(case, history=history, run=case.run.model_copy(update={"exported_epoch": epoch})))).text
        for epoch in (2, 3)
    )
    assert "overfits" in last
    assert "overfits" not in best


def test_a_good_model_has_no_notes(evaluated):
    labels_N = np.arange(400) % 2
    assert words(evaluated(sure(labels_N), labels_N)) == []


def test_notes_name_what_limits_the_verdict(evaluated, history):
    labels_N = np.arange(400) % 2
    collapsed = " ".join(words(evaluated(sure([0] * 400), labels_N)))
    assert "answers “class 0” to every image: it has collapsed" in collapsed
    assert "most frequent class would be right for 50.0\u202f%; the model is not clearly better" in collapsed
    assert "confidence is too high: on average it claims 99.995\u202f% and is right for 50.0" in collapsed

    small = " ".join(words(evaluated(sure([0, 1, 0, 1]), np.array([0, 1, 0, 1]))))
    assert "only 4 test images: the interval of top-1 is 60 points wide" in small
    assert "2 of 2 classes have fewer than 10 test images" in small

    absent = " ".join(words(evaluated(sure(labels_N, 3), labels_N)))
    assert "1 of 3 classes have no test image" in absent

    camera = np.where(np.arange(400) < 40, "old", "new")
    answers_N = np.where(np.arange(400) < 30, 1 - labels_N, labels_N)
    weak = " ".join(words(evaluated(sure(answers_N), labels_N, slices={"camera": camera.tolist()})))
    assert "Where camera is “old” it is clearly weaker: 25.0\u202f% of 40 images" in weak

    history["validation_loss"] = [0.5, 0.4, 0.6]
    assert "lowest in epoch 2 (0.400) and rose to 0.600" in " ".join(
        words(evaluated(sure(labels_N), labels_N), history)
    )
    history["validation_loss"] = [0.06, 0.050, 0.056]  # a tenth more, but next to nothing
    assert "lowest in epoch" not in " ".join(words(evaluated(sure(labels_N), labels_N), history))


def test_a_split_of_one_class_is_no_collapse(evaluated):
    said = " ".join(words(evaluated(sure([0] * 300), np.zeros(300, int))))
    assert "collapsed" not in said
    assert "most frequent class" not in said


def test_the_verdict_names_figures_strengths_and_the_commonest_mistake(evaluated):
    labels_N = np.array([0] * 50 + [1] * 50 + [2] * 100)
    answers_N = np.where((labels_N == 1) & (np.arange(200) % 2 == 0), 2, labels_N)
    answers_N[0] = 2
    case = evaluated(sure(answers_N, 3), labels_N, classes=["ant", "bee", "cow"])
    assert re.fullmatch(
        r"test_resnet names 87\.0\u202f% of 200 test images correctly; with 95\u202f% confidence the true rate lies "
        r"between 8[12]\.\d\u202f% and 9[12]\.\d\u202f%\.",
        verdict.sentence(case.metrics, "test_resnet"),
    )
    pairs = confusion(labels_N, answers_N, 3)
    assert verdict.strengths(case.metrics, pairs, case.index.classes) == (
        "It is best at “ant” (F1 0.990) and weakest at “bee” (F1 0.667). "
        "Its commonest mistake is to take “bee” for “cow” (25 of 50)."
    )
    perfect = evaluated(sure(labels_N, 3), labels_N)
    assert verdict.strengths(perfect.metrics, confusion(labels_N, labels_N, 3), "abc") == "It makes no mistake on them."


@pytest.mark.parametrize(
    ("value", "text"), [(1, "100"), (0, "0"), (0.5, "50.0"), (0.99996, "99.996"), (0.00004, "0.004"), (0.9994, "99.9")]
)
def test_percent_rounds_nothing_up_to_all(value, text):
    assert verdict.percent(value) == f"{text}\u202f%"


def test_metrics_survive_their_file(evaluated, tmp_path):
    metrics = evaluated(*confused(4, 50)).metrics
    metrics.write(tmp_path / "metrics.json")
    assert type(metrics).read(tmp_path / "metrics.json", "evaluate") == metrics
    assert json.loads((tmp_path / "metrics.json").read_text())["num_samples"] == 50
