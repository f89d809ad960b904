"""The configurations: complete, explained, and with the authors' settings."""

import ast
import dataclasses
import io
import re
import tokenize
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from flashvtg_jax.config import (
    apply_overrides,
    config_from_json,
    config_names,
    config_to_json,
    load_config,
)
from flashvtg_jax.data.build.building import dataset_names
from flashvtg_jax.errors import ConfigError
from flashvtg_jax.models.flashvtg import FlashVTG

FOLDER = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")


def test_every_file_is_a_configuration_but_the_common_one():
    assert config_names() == sorted(path.stem for path in FILES if path.stem != "common")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_field_has_a_comment(path):
    """Beside the assignment or on the line above; sections need none."""
    source = path.read_text()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    missing = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign) or ast.unparse(node.value) == "ConfigDict()":
            continue
        is_field = any(isinstance(target, ast.Attribute) for target in node.targets)
        lines = range(node.lineno - 1, node.end_lineno + 1)
        own_lines = {line for line in lines if line in comments}
        above = node.lineno - 1
        if above in own_lines and not source.splitlines()[above - 1].strip().startswith("#"):
            own_lines.remove(above)  # the comment of the field before
        if is_field and not own_lines:
            missing.append(f"{path.name}:{node.lineno}: {ast.unparse(node.targets[0])}")
    assert missing == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_docstring_gives_the_command_and_says_what_is_published(path):
    if path.stem != "common":
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert re.search(rf"flashvtg train --config={path.stem}(:DIR)? --workdir=", docstring)
        assert "published" in docstring.lower()


@pytest.mark.parametrize("name", config_names())
def test_model_section_names_the_fields_of_the_model(name):
    fields = {field.name for field in dataclasses.fields(FlashVTG)} - {"parent", "name"}
    assert set(load_config(name).model) == fields


@pytest.mark.parametrize("name", config_names())
def test_every_field_is_read_somewhere(name):
    """Sections that are passed on as a whole are left to the tests of what takes them."""
    source = "".join(path.read_text() for path in (FOLDER.parent / "flashvtg_jax").rglob("*.py"))
    config = load_config(name)
    fields = {key for key, value in config.items() if not isinstance(value, ConfigDict)}
    for section in ("data", "loss", "optimizer", "train", "evaluation"):
        fields |= set(config[section])
    assert {field for field in fields if not re.search(rf"[.\"]{field}\b", source)} == set()


@pytest.mark.parametrize("name", config_names())
def test_widths_are_given_for_the_streams(name):
    data = load_config(name).data
    assert set(data.video_streams) == set(data.video_widths)
    assert None in (data.max_clips, data.buckets) or data.buckets[-1] >= data.max_clips


def test_qvhighlights_slowfast_clip_has_the_settings_of_the_authors():
    config = load_config("qvhighlights_slowfast_clip")
    model, loss, data = config.model, config.loss, config.data
    assert (model.hidden_dim, model.num_heads, model.ffn_dim, model.enc_layers) == (256, 8, 1024, 3)
    assert (model.t2v_layers, model.dummy_layers, model.num_dummies) == (6, 2, 40)
    assert (model.kernel_size, model.num_conv_layers, model.num_mlp_layers) == (5, 1, 5)
    assert model.strides == (1, 2, 4, 8)
    assert (loss.lw_cls, loss.lw_reg, loss.lw_sal, loss.lw_saliency) == (5, 1, 0.1, 0.8)
    assert (loss.lw_wattn, loss.label_loss_coef) == (1, 4)
    assert data.video_streams == ("slowfast", "clip")
    assert (data.video_widths.slowfast, data.video_widths.clip, data.query_width) == (
        2304,
        512,
        512,
    )
    assert (data.clip_length, data.max_clips, data.max_words) == (2, 75, 40)
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (5e-4, 1e-4)
    assert (config.optimizer.gradient_clip_norm, config.optimizer.lr_drop) == (0.1, None)
    assert (config.train.batch_size, config.train.epochs, config.train.drop_last) == (
        64,
        150,
        False,
    )
    assert (config.evaluation.max_moments, config.evaluation.nms_threshold) == (50, 0.7)
    assert config.evaluation.window_range == (0, 150)


def test_qvhighlights_internvideo2_differs_in_features_strides_and_clip_aware_loss():
    config = load_config("qvhighlights_internvideo2")
    assert config.data.dataset == "qvhighlights/internvideo2"
    assert config.data.video_streams == ("internvideo2",)
    assert (config.data.video_widths.internvideo2, config.data.query_width) == (768, 4096)
    assert config.model.strides == (1, 2, 4, 8, 16)
    assert (config.loss.lw_sal, config.loss.label_loss_coef) == (0.1, 0)
    assert config.optimizer == load_config("qvhighlights_slowfast_clip").optimizer


def test_demo_keeps_its_data_apart_from_real_data_sets():
    config = load_config("demo")
    assert config.data.data_dir is None
    assert config.synthetic.num_train > config.synthetic.num_val > 0


def test_custom_leaves_to_the_data_what_the_data_know():
    config = load_config("custom:some/folder")
    assert config.clip_length is config.loss.clip_length is config.data.clip_length is None
    data = config.data
    assert (data.video_streams, dict(data.video_widths)) == ((), {})
    open_fields = (data.query_width, data.labels, data.max_clips, data.buckets, data.data_dir)
    assert set(open_fields) == {None}
    assert (data.source_video, config.evaluation.window_range) == ("vid", None)
    assert (data.dataset, data.manual_dir) == ("custom/folder", str(Path("some/folder").absolute()))
    assert load_config("custom").data.manual_dir is None
    changed = load_config("custom", ["--config.clip_length=0.5", "--config.data.labels=windows"])
    assert (changed.data.clip_length, changed.loss.clip_length) == (0.5, 0.5)
    restored = config_from_json(config_to_json(config))
    assert apply_overrides(restored, {"clip_length": 2}).loss.clip_length == 2.0
    assert changed.data.labels == "windows"


@pytest.mark.parametrize("name", sorted({*config_names()} - {"demo"}))
def test_every_configuration_can_be_used_on_a_folder(name, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        f"from flashvtg_jax.configs import custom, {name}\n"
        f"def get_config(arg=None): return custom.use_folder({name}.get_config(), arg)\n"
    )
    config, original = load_config(f"{file}:~/my cats"), load_config(name)
    assert config.data.dataset == "custom/my_cats"
    assert config.data.manual_dir == str(Path.home() / "my cats")
    for section in ("model", "loss", "optimizer", "train", "evaluation"):
        assert config[section] == original[section]


# streams, query width, seconds a clip, max clips, max words, strides, t2v and dummy layers,
# dummies, kernel and layers of the score heads, learning rate, batch size, epochs, lw_sal,
# label_loss_coef
SETTINGS = {
    "qvhighlights_slowfast_clip": (
        ("slowfast", "clip"), 512, 2, 75, 40, (1, 2, 4, 8), 6, 2, 40,
        (5, 1, 5), 5e-4, 64, 150, 0.1, 4,
    ),
    "qvhighlights_internvideo2": (
        ("internvideo2",), 4096, 2, 75, 40, (1, 2, 4, 8, 16), 6, 2, 40,
        (5, 1, 5), 5e-4, 64, 150, 0.1, 0,
    ),
    "charades_sta_slowfast_clip": (
        ("slowfast", "clip"), 512, 1, None, 32, (1, 2, 4, 8), 6, 2, 40,
        (5, 1, 5), 2.5e-4, 128, 50, 0.01, 0.1,
    ),
    "charades_sta_vgg": (
        ("vgg",), 300, 0.166666, None, 100, (1, 2, 4, 8), 6, 2, 40,
        (3, 2, 5), 1e-4, 16, 50, 0.01, 0.1,
    ),
    "charades_sta_internvideo2": (
        ("internvideo2",), 4096, 1, None, 23, (1, 2, 4, 8), 6, 2, 40,
        (7, 2, 3), 1.5e-4, 32, 50, 0.01, 0.1,
    ),
    "tacos_slowfast_clip": (
        ("slowfast", "clip"), 512, 2, None, 100, (1, 2, 4, 8), 8, 3, 35,
        (5, 2, 5), 2e-4, 32, 150, 0.05, 4,
    ),
    "tvsum_slowfast_clip": (
        ("slowfast", "clip"), 512, 2, 1000, 100, (1,), 2, 2, 3,
        (3, 3, 3), 1e-3, 4, 600, 0.1, 4,
    ),
    "youtube_highlights_slowfast_clip": (
        ("clip", "slowfast"), 512, 1, 1000, 100, (1,), 2, 2, 1,
        (5, 2, 3), 2e-4, 4, 5, 0.5, 5,
    ),
}  # fmt: skip
HIGHLIGHTS = ("tvsum_slowfast_clip", "youtube_highlights_slowfast_clip")


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_of_the_authors(name):
    config = load_config(name)
    model, loss, data, train = config.model, config.loss, config.data, config.train
    assert SETTINGS[name] == (
        data.video_streams,
        data.query_width,
        config.clip_length,
        data.max_clips,
        data.max_words,
        model.strides,
        model.t2v_layers,
        model.dummy_layers,
        model.num_dummies,
        (model.kernel_size, model.num_conv_layers, model.num_mlp_layers),
        config.optimizer.learning_rate,
        train.batch_size,
        train.epochs,
        loss.lw_sal,
        loss.label_loss_coef,
    )
    assert loss.clip_length == data.clip_length == config.clip_length
    assert (model.hidden_dim, model.num_heads, model.ffn_dim, model.enc_layers) == (256, 8, 1024, 3)
    assert (loss.lw_wattn, config.optimizer.gradient_clip_norm) == (1, 0.1)
    assert (config.evaluation.nms_threshold, config.evaluation.nms_type) == (0.7, "normal")
    youtube, tvsum = name == "youtube_highlights_slowfast_clip", name == "tvsum_slowfast_clip"
    assert (loss.lw_cls, loss.lw_saliency) == ((0.6, 0.7) if youtube else (5, 0.8))
    assert config.optimizer.weight_decay == (0.05 if tvsum else 1e-4)
    assert (train.drop_last, loss.negative_pair_weight) == ((True, 0) if youtube else (False, 1))
    # The authors' dropout is that of attention and feed-forward blocks, and stochastic depth.
    assert model.dropout == model.drop_path == (0 if name == "tacos_slowfast_clip" else 0.1)
    assert model.dummy_dropout == model.dummy_drop_path == 0.1


@pytest.mark.parametrize("name", SETTINGS)
def test_highlight_detection_has_losses_and_inputs_of_its_own(name):
    config, highlights = load_config(name), name in HIGHLIGHTS
    loss = config.loss
    assert (loss.classification == "binary_cross_entropy") == highlights
    assert loss.regression == (not highlights)
    # Neither are GloVe vectors normalised by the authors.
    assert config.data.normalize_query == (not highlights and name != "charades_sta_vgg")
    assert loss.lw_reg == (0.2 if highlights else 1)
    assert loss.alignment_directions == (("row",) if highlights else ("row", "column"))


@pytest.mark.parametrize(
    ("name", "metrics", "window_range"),
    [
        ("qvhighlights_internvideo2", ("MR-full-mAP",), (0, 150)),
        ("charades_sta_slowfast_clip", ("MR-full-R1@0.5", "MR-full-R1@0.7"), (0, 150)),
        ("charades_sta_internvideo2", ("MR-full-R1@0.5", "MR-full-R1@0.7"), (0, 150)),
        ("charades_sta_vgg", ("MR-full-R1@0.5", "MR-full-R1@0.7"), (0, 360)),
        ("tacos_slowfast_clip", ("MR-full-R1@0.3",), None),
        ("tvsum_slowfast_clip", ("HD-mAP",), None),
        ("youtube_highlights_slowfast_clip", ("HD-mAP",), None),
    ],
)
def test_selection_and_range_of_moments(name, metrics, window_range):
    config = load_config(name)
    assert config.train.selection_metrics == metrics
    assert config.evaluation.window_range == window_range


@pytest.mark.parametrize(
    ("name", "count", "domain"), [(HIGHLIGHTS[0], 10, "BK"), (HIGHLIGHTS[1], 6, "dog")]
)
def test_domains_are_all_or_the_one_that_is_named(name, count, domain):
    domains = load_config(name).data.domains
    assert len(domains) == count
    assert load_config(f"{name}:{domain}").data.domains == (domain,)
    with pytest.raises(ConfigError, match=f"no domain 'cat'; there are {', '.join(domains)}"):
        load_config(f"{name}:cat")


@pytest.mark.parametrize("name", SETTINGS)
def test_the_data_set_can_be_built(name):
    assert load_config(name).data.dataset in dataset_names()
