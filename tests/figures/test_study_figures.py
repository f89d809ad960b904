"""Figures of studies: what they show of which entries, whatever is missing, and readable."""

import dataclasses
import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from flashvtg_jax.errors import DataError
from flashvtg_jax.figures import drawing
from flashvtg_jax.figures.drawing import GREEN, GREY, INK, VERMILLION
from flashvtg_jax.figures.entries import Entry
from flashvtg_jax.figures.studies import (
    plot_ablation,
    plot_long_videos,
    plot_refinement,
    plot_robustness,
    plot_scales,
)
from tests.figures.test_figures import captured_figure, check_layout, drawn, shown_texts, tick_texts

NAN = math.nan
MAP = "MR-full-mAP"
METRICS = (MAP, "MR-full-R1@0.5", "MR-full-R1@0.7", "HL-min-VeryGood-mAP")
LABELS = (
    "full model",
    "no temporal feature layering: learned moment queries instead",
    "fixed mix",
    *(f"variant {index} with a name that fills more lines than two of them" for index in range(9)),
)


def make_entry(variant="full model", metric=MAP, mean=50.0, **fields):
    values = {
        "condition": "",
        "level": None,
        "std": 0.4,
        "difference": None,
        "low": None,
        "high": None,
        "seeds": 5,
        "queries": 1550,
    }
    return Entry(variant=variant, metric=metric, mean=mean, **(values | fields))


def less(variant, by, room, **fields):
    """An entry that is `by` below the full model's 50."""
    interval = {"difference": -by, "low": -by - room, "high": -by + room}
    return make_entry(variant, mean=50.0 - by, **(interval | fields))


def make_ablation(count, metrics=METRICS):
    random = np.random.default_rng(count)
    return [
        make_entry(LABELS[0], metric)
        if row == 0
        else less(LABELS[row], random.normal(2, 3), random.uniform(0.2, 2), metric=metric)
        for row in range(count)
        for metric in metrics
    ]


def make_scales(places=(1, 2, 3, 4, 5, 6, "strides 1/2, 1, 2, 4, 8")):
    return [
        make_entry(
            f"K = {place}" if isinstance(place, int) else place,
            metric,
            mean=10.0 * column + index,
            level=place if isinstance(place, int) else None,
            difference=None if place == 5 else 1.0,
        )
        for index, place in enumerate(places)
        for column, metric in enumerate((MAP, "MR-short-mAP", "MR-middle-mAP", "MR-long-mAP"))
    ]


def make_robustness(kinds=("noise", "dropped clips", "frame rate", "missing stream", "blocks")):
    """The clean model without a condition at strength 0, the others with one."""
    entries = [make_entry("trained clean", level=0.0)]
    for kind in kinds:
        for strength in (0.0, 0.1, 0.2, 0.4, 0.6, 0.8):
            fields = {"condition": kind, "level": strength}
            entries.append(less("trained with it", 1 + 10 * strength, 1.0, **fields))
            if strength:
                entries.append(make_entry("trained clean", mean=50 - 40 * strength, **fields))
    return entries


def make_long_videos(
    labels=("full attention", "full attention, intra-scale score only", "windows"),
):
    entries = []
    for row, label in enumerate(labels):
        for minutes in (2.5, 10, 30, 60, 120):
            at = {"condition": f"{minutes:g} min", "level": minutes}
            for metric in (MAP, "MR-full-R1@0.5"):
                entries.append(make_entry(label, metric, 60 - 10 * math.log10(minutes), **at))
            at |= {"std": None, "queries": 0}
            entries.append(make_entry(label, "milliseconds a query", minutes * (row + 1), **at))
            entries.append(make_entry(label, "memory, MiB", 500 + minutes, **at))
    return entries


def without(entries, **fields):
    """The entries, the means of those that match lost."""
    return [
        dataclasses.replace(entry, mean=NAN, std=NAN)
        if all(getattr(entry, name) == value for name, value in fields.items())
        else entry
        for entry in entries
    ]


def of_two_seeds(entries):
    return [dataclasses.replace(entry, seeds=2) for entry in entries]


def stripped(entries):
    """Of one seed: no deviations, no intervals."""
    return [dataclasses.replace(e, std=None, low=None, high=None, seeds=1) for e in entries]


LONG_TITLE = "A title that goes on and on, about features, splits and seeds, " * 5
CASES = {
    "twelve variants": (plot_ablation, make_ablation(12)),
    "three variants": (plot_ablation, make_ablation(3)),
    "full model alone": (plot_ablation, make_ablation(1)),
    "one metric": (plot_ablation, make_ablation(4, ["HD-mAP"])),
    "long names of metrics": (plot_ablation, make_ablation(4, [f"{m}-of-a-name" for m in METRICS])),
    "lost numbers": (plot_ablation, without(make_ablation(5), variant=LABELS[2])),
    "lost full model": (plot_ablation, without(make_ablation(5), variant=LABELS[0])),
    "a lost metric": (plot_ablation, without(make_ablation(5), metric=MAP)),
    "one seed": (plot_ablation, stripped(make_ablation(5))),
    "two seeds": (plot_ablation, of_two_seeds(make_ablation(5))),
    "two seeds of mixes": (plot_refinement, of_two_seeds(make_ablation(4))),
    "great differences": (plot_ablation, [make_entry(), less("a", 49.0, 1), less("b", 0, 0.001)]),
    "no difference": (plot_ablation, [make_entry(), less("b", 0, 0)]),
    "refinement": (plot_refinement, make_ablation(4, (*METRICS[:3], "rank correlation"))),
    "refinement, lost full model": (plot_refinement, without(make_ablation(4), variant=LABELS[0])),
    "learned mix alone": (plot_refinement, make_ablation(1)),
    "scales": (plot_scales, make_scales()),
    "scales, one seed": (plot_scales, stripped(make_scales())),
    "a lost number of scales": (plot_scales, without(make_scales(), level=3)),
    "one number of scales": (plot_scales, make_scales([5])),
    "only named scales": (plot_scales, make_scales(["half strides", "quarter strides"])),
    "robustness": (plot_robustness, make_robustness()),
    "robustness, one seed": (plot_robustness, stripped(make_robustness())),
    "one perturbation": (plot_robustness, make_robustness(["noise"])),
    "lost strengths": (plot_robustness, without(make_robustness(), level=0.6)),
    "a lost perturbation": (plot_robustness, without(make_robustness(), condition="noise")),
    "long videos": (plot_long_videos, make_long_videos()),
    "long videos, one variant": (plot_long_videos, make_long_videos(["full attention"])),
    "long videos, nine variants": (plot_long_videos, make_long_videos(LABELS[3:])),
    "what did not fit": (plot_long_videos, without(make_long_videos(), level=120)),
}


@pytest.mark.parametrize("name", CASES)
def test_texts_keep_apart(name, tmp_path, monkeypatch):
    figures = captured_figure(monkeypatch)
    plot, entries = CASES[name]
    title = LONG_TITLE if len(entries) % 2 else name
    plot(entries, tmp_path / "figure.svg", title=title)
    check_layout(figures[0])
    assert ElementTree.parse(tmp_path / "figure.svg").getroot().tag.endswith("svg")
    assert figures[0].get_figwidth() < 11  # of a README: texts are not too small


@pytest.mark.parametrize("name", ["twelve variants", "scales", "robustness"])
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_files_come_out_alike_every_time(name, kind, tmp_path):
    plot, entries = CASES[name]
    paths = [tmp_path / f"{index}.{kind}" for index in range(2)]
    for path in paths:
        plot(entries, path, title=name)
    first, second = (path.read_bytes() for path in paths)
    assert first == second and kind in str(first[:400]).lower()


def dots(axes):
    """Place and colour of the dots of a column, by their variant."""
    return {
        part.get_gid().removeprefix("dot-"): (float(part.get_xdata()[0]), part.get_color())
        for part in axes.lines
        if (part.get_gid() or "").startswith("dot-")
    }


def intervals(figure):
    return [part.get_segments()[0][:, 0].tolist() for part in drawn(figure, "interval")]


def test_ablation_shows_differences_coloured_where_the_interval_leaves_out_zero(
    tmp_path, monkeypatch
):
    figures = captured_figure(monkeypatch)
    entries = [
        less("worse", 3, 1),
        make_entry(),  # on top, wherever it comes
        less("better", -2, 1),
        less("undecided", 0.5, 1),
        less("unknown", 1, 1, low=None, high=None),
    ]
    plot_ablation(entries, tmp_path / "figure.png", title="Ablation")
    (axes,) = figures[0].axes
    assert dots(axes) == {
        "full model": (0, INK),
        "worse": (-3, VERMILLION),
        "better": (2, GREEN),
        "undecided": (-0.5, GREY),
        "unknown": (-1, GREY),
    }
    assert sorted(intervals(figures[0])) == [[-4, -2], [-1.5, 0.5], [1, 3]]
    heights = {line.get_gid(): line.get_ydata()[0] for line in axes.lines}
    assert heights["dot-full model"] == 0.5 and heights["dot-worse"] == 1.5
    (base,) = drawn(figures[0], "base")
    assert list(base.get_xdata()) == [0, 0]
    texts = [text for text, _ in shown_texts(figures[0])]
    assert "47.0" in texts and " ± 0.4" in texts and "0" in texts and "+2" in texts
    assert "mean ± standard deviation over 5 seeds · 1,550 queries" in texts


def test_few_seeds_are_a_caution_beside_intervals(tmp_path, monkeypatch):
    figures = captured_figure(monkeypatch)
    caution = "2 seeds: intervals are of videos, not of seeds"
    for plot in (plot_ablation, plot_refinement):
        for entries, told in [
            (of_two_seeds(make_ablation(3)), True),
            (make_ablation(3), False),
            (stripped(make_ablation(3)), False),  # nothing to be cautious about
        ]:
            plot(entries, tmp_path / "figure.png", title="Ablation")
            texts = [text for text, _ in shown_texts(figures[-1])]
            assert (caution in texts) == told and any("intervals are" in t for t in texts) == told


def test_refinement_shows_means_and_intervals_laid_at_the_full_models_mean(tmp_path, monkeypatch):
    figures = captured_figure(monkeypatch)
    mixes = [make_entry("learned mix"), less("intra-scale only", 3, 1)]
    correlations = [
        dataclasses.replace(entry, metric="rank correlation", mean=entry.mean / 100, low=None)
        for entry in mixes
    ]
    plot_refinement(mixes + correlations, tmp_path / "figure.png", title="Refinement")
    scores, ranks = figures[0].axes
    assert dots(scores) == {"learned mix": (50, INK), "intra-scale only": (47, VERMILLION)}
    assert intervals(figures[0]) == [[46, 48]]
    assert [line.get_xdata()[0] for line in drawn(figures[0], "base")] == [50, 0.5]
    assert dots(ranks)["intra-scale only"] == (0.47, GREY)
    assert {"0.470", "47.0"} <= {text for text, _ in shown_texts(figures[0])}


def test_four_metrics_at_most_those_that_are_quoted_first(tmp_path, monkeypatch):
    figures = captured_figure(monkeypatch)
    entries = make_ablation(2, ["MR-long-mAP", "MR-short-mAP", *METRICS[:3]])
    plot_ablation(entries, tmp_path / "figure.png", title="Ablation")
    assert len(figures[0].axes) == 4
    texts = [text for text, _ in shown_texts(figures[0])]
    assert [text for text in texts if "MR-" in text] == [*METRICS[:3], "MR-long-mAP"]


def test_lost_numbers_leave_a_dash(tmp_path, monkeypatch):
    figures = captured_figure(monkeypatch)
    entries = without(make_ablation(3), variant=LABELS[1], metric=METRICS[1])
    plot_ablation(entries, tmp_path / "figure.png", title="Ablation")
    assert [len(dots(axes)) for axes in figures[0].axes] == [3, 2, 3, 3]
    assert [text for text, _ in shown_texts(figures[0])].count(drawing.EN_DASH) == 1


def test_scales_are_places_and_what_is_no_number_stands_apart(tmp_path, monkeypatch):
    figures = captured_figure(monkeypatch)
    plot_scales(make_scales(), tmp_path / "figure.png", title="Scales")
    (axes,) = figures[0].axes
    assert tick_texts(axes)[:6] == list("123456") and "strides" in tick_texts(axes)[6]
    numbered, named = drawn(figures[0], "curve-short")
    np.testing.assert_allclose(numbered.get_xdata(), np.arange(6), atol=0.1)
    np.testing.assert_array_equal(numbered.get_ydata(), np.arange(10, 16))
    assert named.get_ydata().tolist() == [16] and named.get_linestyle() == "None"
    (shaded,) = axes.patches
    assert shaded.get_x() == 3.5 and shaded.get_width() == 1  # K = 5, the full model
    texts = [text for text, _ in shown_texts(figures[0])]
    assert {"all moments", "long, > 30 s", "number of scales K"} <= set(texts)
    bars = drawn(figures[0], "deviation")[0].get_segments()
    np.testing.assert_allclose(bars[0][:, 1], [-0.4, 0.4])


def test_a_lost_number_of_scales_is_a_gap(tmp_path, monkeypatch):
    figures = captured_figure(monkeypatch)
    plot_scales(CASES["a lost number of scales"][1], tmp_path / "figure.png", title="Scales")
    line = drawn(figures[0], "curve-all")[0]
    assert np.isnan(line.get_ydata()).tolist() == [False, False, True, False, False, False]


def test_robustness_has_a_panel_for_each_kind_and_one_scale(tmp_path, monkeypatch):
    figures = captured_figure(monkeypatch)
    other = make_entry("trained clean", "MR-full-R1@0.5", condition="noise", level=0.1)
    kinds = ["noise", "dropped clips"]
    plot_robustness([*make_robustness(kinds), other], tmp_path / "figure.png", title="Robustness")
    assert [axes.get_title(loc="left") for axes in figures[0].axes] == kinds
    assert len({axes.get_ylim() for axes in figures[0].axes}) == 1
    for line in drawn(figures[0], "curve-trained clean"):
        # Strength 0 is the same for all kinds.
        np.testing.assert_allclose(line.get_xdata(), [0, 0.1, 0.2, 0.4, 0.6, 0.8])
        np.testing.assert_allclose(line.get_ydata(), [50, 46, 42, 34, 26, 18])
    for line in drawn(figures[0], "curve-trained with it"):
        np.testing.assert_allclose(line.get_ydata(), [49, 48, 47, 45, 43, 41])


def test_values_without_neighbours_have_bars(tmp_path, monkeypatch):
    figures = captured_figure(monkeypatch)
    entries = without(make_robustness(["noise"]), level=0.6)
    plot_robustness(entries, tmp_path / "figure.png", title="Robustness")
    bars = [part for part in drawn(figures[0], "deviation") if hasattr(part, "get_segments")]
    assert [bar.get_segments()[0][:, 0].tolist() for bar in bars] == [[0.8, 0.8]] * 2


def test_long_videos_have_a_panel_for_each_metric_and_logarithmic_lengths(tmp_path, monkeypatch):
    figures = captured_figure(monkeypatch)
    entries = without(make_long_videos(), variant="full attention", level=120)
    plot_long_videos(entries, tmp_path / "figure.png", title="Long videos")
    panels = {axes.get_title(loc="left"): axes for axes in figures[0].axes}
    assert list(panels) == [
        *(MAP, "MR-full-R1@0.5"),
        *("milliseconds a query, log scale", "memory, MiB"),
    ]
    for axes in panels.values():
        assert axes.get_xscale() == "log" and tick_texts(axes) == ["2.5", "10", "30", "60", "120"]
    assert panels[MAP].get_yscale() == "linear"  # a score, however much it varies
    assert panels["memory, MiB"].get_ylim()[0] == 0
    line = drawn(figures[0], "curve-full attention")[0]
    assert np.isnan(line.get_ydata()).tolist() == [False] * 4 + [True]
    assert figures[0].texts[1].get_text().endswith("over 5 seeds · 1,550 queries")


@pytest.mark.parametrize(
    ("plot", "entries", "message"),
    [
        (plot_ablation, [], "no number to draw"),
        (plot_refinement, [make_entry(mean=NAN)], "no number to draw"),
        (plot_ablation, [make_entry(), make_entry()], "two entries for full model"),
        (plot_scales, [make_entry("a", level=3), make_entry("b", level=3)], "same number of"),
        (plot_robustness, [make_entry()], "no curve to draw"),
        (plot_long_videos, [make_entry()], "no curve to draw"),
    ],
)
def test_what_cannot_be_drawn_is_told(plot, entries, message, tmp_path):
    path = tmp_path / "figure.png"
    with pytest.raises(DataError, match=message) as error:
        plot(entries, path, title="Study")
    assert str(path) in str(error.value) and not path.exists()


@pytest.mark.parametrize("plot", [plot_ablation, plot_scales, plot_robustness, plot_long_videos])
def test_other_kinds_of_files_are_refused(plot, tmp_path):
    with pytest.raises(DataError, match=r"\.png or \.svg"):
        plot([make_entry()], tmp_path / "figure.jpg", title="Study")


def test_matplotlib_is_imported_when_a_figure_is_drawn_and_other_rooms_never():
    program = (
        "import sys, flashvtg_jax.figures.studies;"
        "assert 'matplotlib' not in sys.modules and 'jax' not in sys.modules;"
        "assert not any(name.startswith('flashvtg_jax.studies') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
