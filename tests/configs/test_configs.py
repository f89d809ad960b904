"""The configurations: complete, explained, and with the authors' settings."""

import ast
import dataclasses
import io
import re
import tokenize
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from flashvtg_jax.config import config_names, load_config
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
        assert f"flashvtg train --config={path.stem} --workdir=" in docstring
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
