"""The options of the authors' training as a configuration: nothing lost, contradictions told."""

import numpy as np
import pytest

from flashvtg_jax.config import apply_overrides, diff_configs, load_config
from flashvtg_jax.errors import CheckpointError, ConfigError
from flashvtg_jax.interop.pytorch import infer_model_fields
from flashvtg_jax.interop.torch_options import config_from_options, config_from_shapes
from tests import reference
from tests.interop import checkpoints

# Where the authors' scripts and our configurations mean the same in other words, or mean to differ.
KNOWN = {
    "optimizer.lr_drop",  # beyond the last epoch, or never
    "train.early_stopping_evaluations",  # likewise
    "train.evaluate_every_epochs",
}


@pytest.mark.parametrize("name", checkpoints.OPTIONS)
def test_official_options_give_our_configuration(name):
    options = checkpoints.official_options(name)
    same = {"charades_sta_slowfast_clip": "qvhighlights_slowfast_clip"}  # the same model
    config = config_from_options(options, reference.torch_shapes(same.get(name, name)))
    domain = options["dset_domain"]
    ours = load_config(f"{name}:{domain}" if domain else name)
    known = {*KNOWN, "train.epochs"} if name == "charades_sta_vgg" else KNOWN
    assert diff_configs(ours, config, ignore=known) == []


def test_every_option_of_the_training_is_taken():
    options = checkpoints.small_options(
        v_feat_dirs=["there/clip_features/", "there/slowfast_features"],
        max_v_l=200,
        max_q_l=20,
        clip_length=0.5,
        no_norm_tfeat=True,
        seed=7,
        lr=1e-3,
        wd=0.01,
        lr_drop=30,
        grad_clip=0.5,
        bsz=12,
        n_epoch=60,
        eval_epoch=3,
        max_es_cnt=4,
        drop_last=True,
        dropout=0.2,
        input_dropout=0.3,
        lw_wattn=0.7,
        saliency_margin=0.4,
        nms_thd=0.6,
        nms_type="linear",
    )
    options["cfg"]["model"] |= {"max_num_moment": 30}
    options["cfg"]["model"]["loss_cfg"] |= {"sample_radius": 2.5}
    config = config_from_options(options, shapes())
    start = load_config("qvhighlights_slowfast_clip")
    expected = {
        "clip_length": 0.5,
        "seed": 7,
        "data.video_streams": ("clip", "slowfast"),
        "data.max_clips": 200,
        "data.buckets": (75, 200),
        "data.max_words": 20,
        "data.normalize_query": False,
        "model.hidden_dim": 16,
        "model.ffn_dim": 32,
        "model.t2v_layers": 2,
        "model.enc_layers": 1,
        "model.dummy_layers": 1,
        "model.num_dummies": 3,
        "model.strides": (1.0, 2.0),
        "model.kernel_size": 3,
        "model.num_mlp_layers": 2,
        "model.dropout": 0.2,
        "model.drop_path": 0.2,
        "model.input_dropout": 0.3,
        "loss.lw_wattn": 0.7,
        "loss.saliency_margin": 0.4,
        "loss.sample_radius": 2.5,
        "optimizer.learning_rate": 1e-3,
        "optimizer.weight_decay": 0.01,
        "optimizer.lr_drop": 30,
        "optimizer.gradient_clip_norm": 0.5,
        "train.batch_size": 12,
        "train.epochs": 60,
        "train.evaluate_every_epochs": 3,
        "train.early_stopping_evaluations": 5,
        "train.drop_last": True,
        "evaluation.nms_threshold": 0.6,
        "evaluation.nms_type": "linear",
        "evaluation.max_moments": 30,
    }
    assert diff_configs(apply_overrides(start, expected), config) == []
    assert config.loss.clip_length == config.data.clip_length == 0.5


def shapes():
    return {name: array.shape for name, array in checkpoints.small_state_dict().items()}


def test_minus_one_means_no_limit():
    options = checkpoints.small_options(max_v_l=-1, max_q_l=-1, grad_clip=-1, nms_thd=-1)
    config = config_from_options(options, shapes())
    assert config.data.max_clips is None
    assert config.data.buckets is None
    assert config.data.max_words == 100
    assert config.optimizer.gradient_clip_norm == 1e6
    assert config.evaluation.nms_threshold == 0.7


def test_options_that_are_not_there_leave_the_field():
    config = config_from_options({"dset_name": "hl"}, shapes())
    assert config.data.max_clips == 75
    assert config.model.strides == (1, 2)
    assert config.model.hidden_dim == 16


def test_upsampling_levels_come_from_the_strides():
    options = checkpoints.small_options(cfg=checkpoints.settings((1, 0.5)))
    assert config_from_options(options, shapes()).model.strides == (1, 0.5)
    start = apply_overrides(
        load_config("qvhighlights_slowfast_clip"), {"model.strides": (1.0, 0.5)}
    )
    assert config_from_shapes(start, shapes()).model.strides == (1, 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t2v_layers": 3}, "contradict each other: t2v_layers is 3, the parameters say 2"),
        ({"num_dummies": 40}, "num_dummies is 40, the parameters say 3"),
        ({"cfg": checkpoints.settings((1, 2, 4))}, r"strides are \(1, 2, 4\), the parameters say"),
        ({"v_feat_dim": 770}, r"770 numbers a clip \(v_feat_dim\), its parameters take 2816"),
        ({"t_feat_dim": 300}, r"300 numbers a word \(t_feat_dim\), its parameters take 512"),
        ({"no_norm_vfeat": True}, "trained with no_norm_vfeat=True, which flashvtg-jax does not"),
        ({"use_txt_pos": True}, "trained with use_txt_pos=True"),
        ({"nheads": 4}, "trained with nheads=4"),
        ({"ctx_mode": "tef"}, "trained with ctx_mode='tef'"),
        ({"dset_name": "nlq"}, "name the data set 'nlq'; known are hl, .* give --config=NAME"),
        ({"dset_name": None}, "name the data set None"),
        (
            {"v_feat_dirs": ["a", "b"]},
            r"2816 numbers a clip and 512 a word from a, b\. .* give --config=NAME",
        ),
        ({"v_feat_dirs": ["slowfast_clip"]}, r"from slowfast_clip\. .* give --config"),
        ({"bsz": "many"}, "do not fit a configuration: config.train.batch_size"),
        ({"max_v_l": "long"}, "not those of FlashVTG"),
    ],
)
def test_what_cannot_be_is_told(change, message):
    with pytest.raises(CheckpointError, match=message):
        config_from_options(checkpoints.small_options(**change), shapes())


def test_another_pooling_is_refused():
    options = checkpoints.small_options()
    options["cfg"]["model"]["pooling_cfg"] = {"type": "MaxPooling"}
    with pytest.raises(CheckpointError, match=r"pooling_cfg .*MaxPooling.* \(it has AdaPooling\)"):
        config_from_options(options, shapes())


@pytest.mark.parametrize("domain", [None, "XX"])
def test_a_domain_is_needed_where_there_are_domains(domain):
    options = checkpoints.official_options("tvsum_slowfast_clip") | {"dset_domain": domain}
    with pytest.raises(CheckpointError, match=rf"name the domain {domain!r} .* there are BK, BT"):
        config_from_options(options, reference.torch_shapes("tvsum_slowfast_clip"))


def test_one_stream_of_two_is_enough():
    options = checkpoints.small_options(v_feat_dirs=["clip_features"], v_feat_dim=514)
    weights = checkpoints.small_state_dict(video_dim=512)
    config = config_from_options(options, {name: a.shape for name, a in weights.items()})
    assert config.data.video_streams == ("clip",)


def test_a_given_configuration_is_the_start():
    start = apply_overrides(
        load_config("qvhighlights_slowfast_clip"), {"data.dataset": "custom/mine", "name": "mine"}
    )
    # Folders of any names are in its order; the data set may be any.
    options = checkpoints.small_options(dset_name="mine", v_feat_dirs=["a", "b"], bsz=9)
    config = config_from_options(options, shapes(), start)
    assert config.data.dataset == "custom/mine"
    assert config.data.video_streams == ("slowfast", "clip")
    assert config.train.batch_size == 9


def test_a_given_configuration_of_other_features_is_refused():
    start = load_config("qvhighlights_internvideo2")
    message = (
        "has the features internvideo2=768, query=4096; the parameters take 2816 numbers a clip "
        "and 512 a word"
    )
    with pytest.raises(ConfigError, match=f"{message}, .*slowfast_features, "):
        config_from_options(checkpoints.small_options(), shapes(), start)
    with pytest.raises(ConfigError, match=rf"{message}\. Give other widths"):
        config_from_shapes(start, shapes())
    with pytest.raises(ConfigError, match="leaves its features to the data set"):
        config_from_shapes(load_config("custom:mine"), shapes())


NARROW = {"slowfast": 24, "clip": 8}


def narrow_shapes():
    weights = checkpoints.small_state_dict(video_dim=32, query_dim=6)
    return {name: array.shape for name, array in weights.items()}


def assert_narrow(config, order=("slowfast", "clip")):
    assert config.data.video_streams == order
    assert config.data.video_widths.to_dict() == NARROW
    assert config.data.query_width == 6


def test_other_widths_than_the_released_are_given():
    options = checkpoints.small_options(v_feat_dim=34, t_feat_dim=6)
    with pytest.raises(CheckpointError, match="give them: --widths=slowfast=64"):
        config_from_options(options, narrow_shapes())
    widths = NARROW | {"query": 6}
    assert_narrow(config_from_options(options, narrow_shapes(), widths=widths))
    start = load_config("qvhighlights_slowfast_clip")
    assert_narrow(config_from_options(options, narrow_shapes(), start, widths))
    assert_narrow(config_from_shapes(start, narrow_shapes(), widths))
    with pytest.raises(ConfigError, match="the parameters take 32 numbers a clip and 6 a word"):
        config_from_shapes(start, narrow_shapes(), widths | {"clip": 9})


def test_other_widths_are_read_from_the_features_of_the_training(tmp_path):
    folders = [tmp_path / "clip_features", tmp_path / "slowfast_features"]
    for folder, width in zip(folders, (8, 24), strict=True):
        folder.mkdir()
        np.savez(folder / "video.npz", features=np.zeros((3, width), np.float32))
    options = checkpoints.small_options(v_feat_dirs=list(map(str, folders)), v_feat_dim=34)
    config = config_from_options(options | {"t_feat_dim": 6}, narrow_shapes())
    assert_narrow(config, ("clip", "slowfast"))


def test_the_width_of_a_single_stream_is_that_of_the_parameters():
    options = checkpoints.official_options("qvhighlights_internvideo2")
    options |= checkpoints.small_options(dset_name="qv_internvideo2", v_feat_dirs=["any"])
    options |= {"v_feat_dim": 34, "t_feat_dim": 6}
    config = config_from_options(options, narrow_shapes())
    assert config.data.video_widths.to_dict() == {"internvideo2": 32}
    assert config.data.dataset == "qvhighlights/internvideo2"


def test_shapes_alone_give_the_model():
    start = load_config("qvhighlights_slowfast_clip")
    config = config_from_shapes(start, shapes())
    for name, value in infer_model_fields(shapes()).items():
        assert config.model[name] == value
    assert config.model.num_heads == start.model.num_heads
    assert diff_configs(start, config, ignore=["model"]) == []
