"""Checkpoints of the authors' program: small ones in the same structure, and the official options.

A state dict here is {name: array}; files are made by PyTorch, where it is, or by hand.
"""

import argparse
import collections
import contextlib
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np

from flashvtg_jax.interop.pytorch import param_shapes, params_to_torch, unread_entries
from tests import reference

SMALL = reference.make_model(
    hidden_dim=16,
    ffn_dim=32,
    t2v_layers=2,
    enc_layers=1,
    dummy_layers=1,
    num_dummies=3,
    strides=(1, 2),
    kernel_size=3,
    num_mlp_layers=2,
)

# The defaults of the authors' command line, as far as they say something about a model.
DEFAULTS = {
    "use_neg": True,
    "dset_domain": None,
    "seed": 2024,
    "lr": 5e-4,
    "wd": 1e-4,
    "max_es_cnt": 200,
    "drop_last": False,
    "eval_epoch": 2,
    "grad_clip": 0.1,
    "clip_length": 2,
    "no_norm_vfeat": False,
    "no_norm_tfeat": False,
    "ctx_mode": "video_tef",
    "q_feat_type": "last_hidden_state",
    "position_embedding": "sine",
    "use_SRM": False,
    "dim_feedforward": 1024,
    "hidden_dim": 256,
    "input_dropout": 0.5,
    "dropout": 0.1,
    "txt_drop_ratio": 0,
    "use_txt_pos": False,
    "nheads": 8,
    "pre_norm": False,
    "n_input_proj": 2,
    "temperature": 0.07,
    "saliency_margin": 0.2,
    "span_loss_type": "l1",
    "kernel_size": 3,
    "num_conv_layers": 3,
    "num_mlp_layers": 3,
    "enc_layers": 3,
    "lw_reg": 0.2,
    "lw_cls": 1.0,
    "lw_sal": 0.1,
    "lw_saliency": 0.1,
    "lw_wattn": 1.0,
    "label_loss_coef": 4,
    "nms_thd": 0.7,
    "nms_type": "normal",
    "max_before_nms": 50,
}
MOMENTS = DEFAULTS | {
    "t2v_layers": 6,
    "dummy_layers": 2,
    "num_dummies": 40,
    "kernel_size": 5,
    "num_conv_layers": 1,
    "num_mlp_layers": 5,
    "eval_epoch": 1,
    "lw_reg": 1.0,
    "lw_cls": 5.0,
    "lw_saliency": 0.8,
    "v_feat_dirs": ["features/slowfast_features", "features/clip_features"],
    "v_feat_dim": 2818,  # the program adds the temporal endpoints
    "t_feat_dim": 512,
}
HIGHLIGHTS = DEFAULTS | {
    "t2v_layers": 2,
    "dummy_layers": 2,
    "max_v_l": 1000,
    "max_q_l": 100,  # the program puts it in the place of -1
    "bsz": 4,
    "max_es_cnt": -1,
    "lw_saliency": 0.8,
    "v_feat_dim": 2818,
    "t_feat_dim": 512,
}
CHARADES = MOMENTS | {"max_v_l": -1, "n_epoch": 50, "lw_sal": 0.01, "label_loss_coef": 0.1}

# What the authors' scripts give, by the name of our configuration.
OPTIONS = {
    "qvhighlights_slowfast_clip": MOMENTS
    | {"dset_name": "hl", "max_v_l": 75, "max_q_l": 40, "bsz": 64, "n_epoch": 150, "lr_drop": 400},
    "qvhighlights_internvideo2": MOMENTS
    | {
        "dset_name": "qv_internvideo2",
        "v_feat_dirs": ["qvhighlights_internvideo2/qvhighlight_6b/"],
        "v_feat_dim": 770,
        "t_feat_dim": 4096,
        "max_v_l": 75,
        "max_q_l": 40,
        "bsz": 64,
        "n_epoch": 150,
        "lr_drop": 400,
        "eval_epoch": 5,
        "label_loss_coef": 0.0,
    },
    "charades_sta_slowfast_clip": CHARADES
    | {"dset_name": "charadesSTA", "max_q_l": 32, "bsz": 128, "clip_length": 1, "lr": 2.5e-4},
    "charades_sta_vgg": CHARADES
    | {
        "dset_name": "charadesSTA",
        "v_feat_dirs": ["charades/vgg_features/rgb_features"],
        "v_feat_dim": 4098,
        "t_feat_dim": 300,
        "max_q_l": 100,
        "bsz": 16,
        "clip_length": 0.166666,
        "lr": 1e-4,
        "n_epoch": 1,
        "kernel_size": 3,
        "num_conv_layers": 2,
    },
    "charades_sta_internvideo2": CHARADES
    | {
        "dset_name": "charadesSTA_internvideo2",
        "v_feat_dirs": ["charades_internvideo2/charade_sta_6b"],
        "v_feat_dim": 770,
        "t_feat_dim": 4096,
        "max_q_l": 23,
        "bsz": 32,
        "clip_length": 1,
        "lr": 1.5e-4,
        "kernel_size": 7,
        "num_conv_layers": 2,
        "num_mlp_layers": 3,
    },
    "tacos_slowfast_clip": MOMENTS
    | {
        "dset_name": "tacos",
        "max_v_l": -1,
        "max_q_l": 100,
        "bsz": 32,
        "n_epoch": 150,
        "eval_epoch": 3,
        "t2v_layers": 8,
        "dummy_layers": 3,
        "num_dummies": 35,
        "num_conv_layers": 2,
        "lw_sal": 0.05,
        "lr": 2e-4,
        "dropout": 0.0,
    },
    "tvsum_slowfast_clip": HIGHLIGHTS
    | {
        "dset_name": "tvsum",
        "dset_domain": "BK",
        "v_feat_dirs": ["tvsum/vid_slowfast", "tvsum/vid_clip"],
        "num_dummies": 3,
        "n_epoch": 600,
        "eval_epoch": 1,
        "lr": 1e-3,
        "wd": 0.05,
        "lw_cls": 5.0,
    },
    "youtube_highlights_slowfast_clip": HIGHLIGHTS
    | {
        "dset_name": "youtube_uni",
        "dset_domain": "surfing",
        "v_feat_dirs": ["youtube_uni/vid_clip", "youtube_uni/vid_slowfast"],
        "clip_length": 1,
        "num_dummies": 1,
        "kernel_size": 5,
        "num_conv_layers": 2,
        "n_epoch": 5,
        "lr": 2e-4,
        "drop_last": True,
        "lw_cls": 0.6,
        "lw_sal": 0.5,
        "lw_saliency": 0.7,
        "label_loss_coef": 5.0,
    },
}


def settings(strides, highlights=False):
    """What the authors' configuration file holds."""
    loss = {"type": "BundleLoss", "sample_radius": 1.5}
    if highlights:
        loss["loss_cls"], loss["loss_reg"] = {"type": "DynamicBCELoss"}, None
        loss["loss_sal"] = {"type": "SampledNCELoss", "direction": "row"}
    else:
        loss["loss_cls"], loss["loss_reg"] = {"type": "FocalLoss"}, {"type": "L1Loss"}
        loss["loss_sal"] = {"type": "SampledNCELoss"}
    return {
        "model": {
            "strides": strides,
            "buffer_size": 1024,
            "max_num_moment": 50,
            "pyramid_cfg": {"type": "ConvPyramid"},
            "pooling_cfg": {"type": "AdaPooling"},
            "class_head_cfg": {"type": "ConvHead", "kernal_size": 3},
            "coord_head_cfg": {"type": "ConvHead", "kernal_size": 3},
            "loss_cfg": loss,
        }
    }


def official_options(name):
    """All options of an official training, as its checkpoints hold them."""
    strides = (1, 2, 4, 8, 16) if name == "qvhighlights_internvideo2" else (1, 2, 4, 8)
    highlights = OPTIONS[name]["dset_name"] in ("tvsum", "youtube_uni")
    return OPTIONS[name] | {"cfg": settings((1,) if highlights else strides, highlights)}


def small_options(**changes):
    """Of a training of `SMALL` on QVHighlights with SlowFast and CLIP features."""
    fields = {"hidden_dim": 16, "dim_feedforward": 32, "t2v_layers": 2, "enc_layers": 1}
    fields |= {"dummy_layers": 1, "num_dummies": 3, "kernel_size": 3, "num_mlp_layers": 2}
    cfg = settings(SMALL.strides)
    return OPTIONS["qvhighlights_slowfast_clip"] | fields | {"cfg": cfg} | changes


def small_state_dict(video_dim=2816, query_dim=512, seed=0):
    """Parameters of `SMALL`, and the entries that nothing reads."""
    rng = np.random.default_rng(seed)
    params = {}
    for path, shape in param_shapes(SMALL, video_dim, query_dim).items():
        section = params
        for name in path[:-1]:
            section = section.setdefault(name, {})
        section[path[-1]] = rng.standard_normal(shape).astype(np.float32)
    unread = {name: a + np.float32(0.5) for name, a in unread_entries(16, 40).items()}
    return params_to_torch(params, SMALL) | unread


@contextlib.contextmanager
def _nncore(base):
    """nncore's class of configurations, for as long as a file is written."""

    class Config(base):
        def __init__(self, values=(), filename=None):
            super().__init__(values)
            self.__dict__.update(_frozen=False, _filename=filename)

    Config.__module__, Config.__qualname__ = "nncore.utils.config", "Config"
    names = ("nncore", "nncore.utils", "nncore.utils.config")
    before = {name: sys.modules.get(name) for name in names}
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    sys.modules["nncore.utils.config"].Config = Config

    def wrap(value):
        if isinstance(value, dict):
            return Config({key: wrap(item) for key, item in value.items()})
        return value

    try:
        yield wrap
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def save(path, state_dict, options=None, base=collections.OrderedDict, **how):
    """Write a checkpoint as the authors' program does; needs PyTorch.

    `base`: of nncore's class of configurations. `how`: for `torch.save`.
    """
    import torch

    tensors = collections.OrderedDict(
        (name, torch.from_numpy(np.array(array))) for name, array in state_dict.items()
    )
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([{"params": [weight], "lr": 1e-3}])
    weight.sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 400, gamma=0.5)
    with _nncore(base) as wrap:
        content = {
            "model": tensors,
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": scheduler.state_dict(),
            "epoch": 6,
        }
        if options is not None:
            cfg = wrap(options["cfg"])
            device = torch.device("cuda:0")
            content["opt"] = argparse.Namespace(**{**options, "cfg": cfg, "device": device})
        torch.save(content, path, **how)
    return path


class Calling:
    """Pickled, it is a call of a function, which whoever unpickles it makes."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


def write_zip(path, pickled):
    """A file in PyTorch's zip format by hand, `pickled` in the place of the checkpoint."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return Path(path)


def write_old(path, pickled):
    """A file in PyTorch's format before zip files by hand."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    version = pickle.dumps(1001, protocol=2)
    about = pickle.dumps({"protocol_version": 1001, "little_endian": True}, protocol=2)
    Path(path).write_bytes(magic + version + about + pickled + pickle.dumps([], protocol=2))
    return Path(path)


def named_call(module, name, *arguments):
    """A pickle that calls a function by its name, which need not exist here."""
    text = b"".join(b"X" + struct.pack("<I", len(a.encode())) + a.encode() for a in arguments)
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + text + b"tR."
