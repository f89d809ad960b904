"""The options of the authors' training program as one of our configurations.

It starts from the configuration of the same data set and features and sets every field that follows
from the options or from the shapes of the parameters.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import ml_collections

from flashvtg_jax.config import apply_overrides, load_config
from flashvtg_jax.data.feature_files import feature_header
from flashvtg_jax.errors import CheckpointError, ConfigError, DataError, FlashVTGError
from flashvtg_jax.interop.pytorch import Shapes, infer_model_fields, torch_feature_widths

Config = ml_collections.ConfigDict
Options = Mapping[str, Any]

# Our configurations by the authors' name of the data set (`dset_name`).
_CONFIGS = {
    "hl": ("qvhighlights_slowfast_clip", "qvhighlights_internvideo2"),
    "qv_internvideo2": ("qvhighlights_internvideo2",),
    "charadesSTA": ("charades_sta_slowfast_clip", "charades_sta_vgg", "charades_sta_internvideo2"),
    "charadesSTA_internvideo2": ("charades_sta_internvideo2",),
    "tacos": ("tacos_slowfast_clip",),
    "tvsum": ("tvsum_slowfast_clip",),
    "youtube_uni": ("youtube_highlights_slowfast_clip",),
}
_GIVE_CONFIG = "give --config=NAME, or a .py file of your own"

# Options, and our fields for them.
_MODEL_FIELDS = {
    "hidden_dim": "hidden_dim",
    "dim_feedforward": "ffn_dim",
    "n_input_proj": "n_input_proj",
    "t2v_layers": "t2v_layers",
    "enc_layers": "enc_layers",
    "dummy_layers": "dummy_layers",
    "num_dummies": "num_dummies",
    "kernel_size": "kernel_size",
    "num_conv_layers": "num_conv_layers",
    "num_mlp_layers": "num_mlp_layers",
}
_OTHER_FIELDS = {
    "nheads": "model.num_heads",
    "input_dropout": "model.input_dropout",
    "dropout": "model.dropout",
    "lw_cls": "loss.lw_cls",
    "lw_reg": "loss.lw_reg",
    "lw_sal": "loss.lw_sal",
    "lw_saliency": "loss.lw_saliency",
    "lw_wattn": "loss.lw_wattn",
    "label_loss_coef": "loss.label_loss_coef",
    "saliency_margin": "loss.saliency_margin",
    "clip_length": "clip_length",
    "seed": "seed",
    "lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "lr_drop": "optimizer.lr_drop",
    "bsz": "train.batch_size",
    "n_epoch": "train.epochs",
    "eval_epoch": "train.evaluate_every_epochs",
    "drop_last": "train.drop_last",
    "nms_type": "evaluation.nms_type",
}
# The values that these options may have: nothing else is implemented here.
_REQUIRED = {
    "position_embedding": ("sine", "v2"),
    "use_txt_pos": (False,),
    "pre_norm": (False,),
    "no_norm_vfeat": (False,),
    "q_feat_type": ("last_hidden_state",),
    "span_loss_type": ("l1",),
    "nheads": (8,),  # the authors' dummy encoder has eight whatever this says
}
_REQUIRED_MODULES = {
    "pyramid_cfg": "ConvPyramid",
    "pooling_cfg": "AdaPooling",
    "coord_head_cfg": "ConvHead",
}
_CLASSIFICATIONS = {"FocalLoss": "focal", "DynamicBCELoss": "binary_cross_entropy"}
_DIRECTIONS = {"row": "row", "col": "column"}
_NO_CLIPPING = 1e6  # a norm that no gradient has


def config_from_options(
    options: Options,
    shapes: Shapes,
    start: Config | None = None,
    widths: Mapping[str, int] | None = None,
) -> Config:
    """The configuration that a checkpoint was trained with.

    Args:
      options: by their names on the authors' command line; `cfg` holds their configuration file.
        A missing one leaves the field unchanged.
      shapes: of the parameters, by name.
      start: the configuration to start from; None: that of the data set and features.
      widths: of the streams by name, where they differ from the configuration's. None: those of
        the feature files that the options name, if these exist here.

    Raises:
      CheckpointError: options that contradict each other or the parameters, or name something that
        is not implemented here.
      ConfigError: `start` has other features.
    """
    try:
        return _config_from_options(options, shapes, start, widths or {})
    except FlashVTGError:
        raise
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
        raise CheckpointError(f"its options are not those of FlashVTG ({error})") from error


def _config_from_options(
    options: Options, shapes: Shapes, start: Config | None, widths: Mapping[str, int]
) -> Config:
    settings = _settings(options)
    _check_required(options, settings)
    width, query_width = torch_feature_widths(shapes)
    _check_widths(options, width, query_width)
    config, streams = _choose_config(options, width, query_width, start, widths)
    overrides: dict[str, Any] = {
        ours: options[theirs]
        for theirs, ours in _OTHER_FIELDS.items()
        if options.get(theirs) is not None
    }
    overrides |= {f"model.{k}": v for k, v in _model_fields(options, settings, shapes).items()}
    overrides |= _loss_fields(settings.get("loss_cfg"))
    overrides |= _data_fields(options, config)
    if "dropout" in options:
        overrides["model.drop_path"] = options["dropout"]
        # The authors' encoder of dummy tokens has rates of its own, which no option changes.
        overrides |= {"model.dummy_dropout": 0.1, "model.dummy_drop_path": 0.1}
    if (norm := options.get("grad_clip")) is not None:
        overrides["optimizer.gradient_clip_norm"] = norm if norm > 0 else _NO_CLIPPING
    if (patience := options.get("max_es_cnt")) is not None:
        # The authors stop once more than so many evaluations were not better.
        overrides["train.early_stopping_evaluations"] = None if patience < 0 else patience + 1
    if (threshold := options.get("nms_thd", -1)) != -1:
        overrides["evaluation.nms_threshold"] = threshold
    if (count := settings.get("max_num_moment")) is not None:
        overrides["evaluation.max_moments"] = count
    try:
        config = apply_overrides(config, overrides)
    except ConfigError as error:
        raise CheckpointError(f"its options do not fit a configuration: {error}") from error
    return _with_widths(config, streams, query_width)


def config_from_shapes(
    start: Config, shapes: Shapes, widths: Mapping[str, int] | None = None
) -> Config:
    """The configuration `start` with the fields of the model that follow from shapes of parameters.

    `widths`: of the streams by name, where they differ from the configuration's. Raises ConfigError
    if it has other features.
    """
    width, query_width = torch_feature_widths(shapes)
    streams = _given_streams(start, (), width, query_width, widths or {})
    fields = infer_model_fields(shapes)
    # Shapes do not distinguish a level that is twice as fine from one that is twice as coarse.
    if _sizes(start.model.strides) == _sizes(fields["strides"]):
        del fields["strides"]
    config = apply_overrides(start, {f"model.{name}": value for name, value in fields.items()})
    return _with_widths(config, streams, query_width)


def _settings(options: Options) -> Mapping[str, Any]:
    """The `model` section of the authors' configuration file."""
    file = options.get("cfg")
    settings = file.get("model") if isinstance(file, Mapping) else None
    return settings if isinstance(settings, Mapping) else {}


def _check_required(options: Options, settings: Mapping[str, Any]) -> None:
    for name, allowed in _REQUIRED.items():
        if options.get(name) is not None and options[name] not in allowed:
            raise CheckpointError(
                f"trained with {name}={options[name]!r}, which flashvtg-jax does not have (it has "
                f"{' or '.join(map(repr, allowed))})"
            )
    mode = options.get("ctx_mode")
    if mode is not None and not ("video" in mode and "tef" in mode):
        raise CheckpointError(
            f"trained with ctx_mode={mode!r}; flashvtg-jax has features of the video with temporal "
            "endpoints, 'video_tef'"
        )
    for name, kind in _REQUIRED_MODULES.items():
        found = settings.get(name, {})
        if not isinstance(found, Mapping) or found.get("type", kind) != kind:
            raise CheckpointError(
                f"trained with {name} {found!r}, which flashvtg-jax does not have (it has {kind})"
            )


def _check_widths(options: Options, width: int, query_width: int) -> None:
    stated, stated_query = options.get("v_feat_dim"), options.get("t_feat_dim")
    # The program adds the temporal endpoints to its option.
    if stated not in (None, width, width + 2):
        raise CheckpointError(
            f"its options say features of {stated} numbers a clip (v_feat_dim), its parameters "
            f"take {width} and two temporal endpoints"
        )
    if stated_query not in (None, query_width):
        raise CheckpointError(
            f"its options say features of {stated_query} numbers a word (t_feat_dim), its "
            f"parameters take {query_width}"
        )


def _choose_config(
    options: Options,
    width: int,
    query_width: int,
    start: Config | None,
    widths: Mapping[str, int],
) -> tuple[Config, dict[str, int]]:
    """The configuration to start from, and the width of each stream in the order of training."""
    folders = options.get("v_feat_dirs") or ()
    folders = (folders,) if isinstance(folders, str) else tuple(map(str, folders))
    if start is not None:
        return start, _given_streams(start, folders, width, query_width, widths)
    dataset = options.get("dset_name")
    if dataset not in _CONFIGS:
        raise CheckpointError(
            f"its options name the data set {dataset!r}; known are {', '.join(_CONFIGS)}. For "
            f"another one {_GIVE_CONFIG}"
        )
    configs = [load_config(name) for name in _CONFIGS[dataset]]
    for config in configs:
        streams = _known_streams(config, folders, widths)
        if sum(streams.values()) == width and _takes_words(config, query_width, widths):
            return config, streams
    for config in configs:
        streams = _measured_streams(config, folders, width, alone=len(configs) == 1)
        if sum(streams.values()) == width and not widths:
            return config, streams
    raise CheckpointError(
        f"no configuration of the data set {dataset!r} has features of {width} numbers a clip and "
        f"{query_width} a word from {', '.join(folders) or 'no named folder'}. If the widths are "
        "others than the released ones, give them: --widths=slowfast=64,clip=32,query=32; else "
        f"{_GIVE_CONFIG}, whose data.video_streams are in the order of training"
    )


def _given_streams(
    start: Config, folders: Sequence[str], width: int, query_width: int, widths: Mapping[str, int]
) -> dict[str, int]:
    """The streams of a configuration that the user chose. Raises ConfigError if they do not fit."""
    data = start.data
    if not data.video_streams or data.labels is None:
        raise ConfigError(
            f"configuration {start.name!r} leaves its features to the data set; a checkpoint has "
            "none to ask: give one with data.video_streams, data.video_widths and data.labels"
        )
    streams = _known_streams(start, folders, widths, unnamed=True)
    if sum(streams.values()) == width and _takes_words(start, query_width, widths):
        return streams
    here = ", ".join(f"{name}={data.video_widths.get(name)}" for name in data.video_streams)
    raise ConfigError(
        f"configuration {start.name!r} has the features {here}, query={data.query_width}; the "
        f"parameters take {width} numbers a clip and {query_width} a word"
        f"{''.join(f', {folder}' for folder in folders)}. Give other widths as "
        "--widths=slowfast=64,clip=32,query=32, or another configuration, whose "
        "data.video_streams are in the order of training"
    )


def _takes_words(config: Config, query_width: int, widths: Mapping[str, int]) -> bool:
    """Whether the configuration, or the user, allows words of this width."""
    return widths.get("query", config.data.query_width) in (None, query_width)


def _order(config: Config, folders: Sequence[str], unnamed: bool = False) -> tuple[str, ...]:
    """The configuration's streams in the order of the folders; () if they do not fit.

    `unnamed`: folders that are not named after streams are in the configuration's order.
    """
    known = tuple(config.data.video_streams)
    if not folders or (len(known) == len(folders) == 1):
        return known
    named = [_names_in(folder, known) for folder in folders]
    if unnamed and not any(named) and len(known) == len(folders):
        return known
    if any(len(names) != 1 for names in named):
        return ()
    order = tuple(names[0] for names in named)
    return order if len(set(order)) == len(order) else ()


def _names_in(folder: str, known: Iterable[str]) -> list[str]:
    """Streams that a folder is named after: by its own name, else by its path."""
    path = PurePosixPath(folder.lower())
    for text in (path.name, str(path)):
        if names := [name for name in known if name in text]:
            return names
    return []


def _known_streams(
    config: Config, folders: Sequence[str], widths: Mapping[str, int], unnamed: bool = False
) -> dict[str, int]:
    """Streams and their widths by the configuration or the user; empty if they do not fit."""
    order = _order(config, folders, unnamed)
    found = {name: widths.get(name, config.data.video_widths.get(name)) for name in order}
    return {} if None in found.values() else found


def _measured_streams(
    config: Config, folders: Sequence[str], width: int, alone: bool
) -> dict[str, int]:
    """Streams with the widths of the files in their folders; empty if there are no files.

    `alone`: whether no other configuration is possible.
    """
    order = _order(config, folders)
    if len(order) == 1 and (alone or _names_in(folders[0] if folders else "", order)):
        return {order[0]: width}
    found = {}
    for name, folder in zip(order, folders, strict=False):
        try:
            files = (file for file in Path(folder).iterdir() if file.suffix in (".npz", ".npy"))
            file = next(files)
            found[name] = feature_header(file, "features" if file.suffix == ".npz" else None).width
        except (OSError, StopIteration, DataError):
            return {}
    return found


def _model_fields(options: Options, settings: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Fields of the model by the shapes. Raises CheckpointError if options contradict them."""
    fields = infer_model_fields(shapes)
    problems = [
        f"{theirs} is {options[theirs]}, the parameters say {fields[ours]}"
        for theirs, ours in _MODEL_FIELDS.items()
        if options.get(theirs) is not None and options[theirs] != fields.get(ours, options[theirs])
    ]
    strides = settings.get("strides")
    if strides is not None:
        strides = tuple(strides) if isinstance(strides, list | tuple) else (strides,)
        if _sizes(strides) == _sizes(fields["strides"]):
            fields["strides"] = tuple(map(float, strides))
        else:
            problems.append(f"strides are {strides}, the parameters say {fields['strides']}")
    if problems:
        raise CheckpointError(
            f"its options and its parameters contradict each other: {'; '.join(problems)}"
        )
    return fields


def _sizes(strides: Iterable[Any]) -> list[Any]:
    """Factors of up- and downsampling alike; 0 for anything that is not a stride."""
    return [max(s, 1 / s) if isinstance(s, int | float) and s > 0 else 0 for s in strides]


def _loss_fields(settings: Any) -> dict[str, Any]:
    """Fields of the loss by the `loss_cfg` of the authors' configuration file."""
    if not isinstance(settings, Mapping):
        return {}
    fields: dict[str, Any] = {"loss.sample_radius": settings.get("sample_radius", 1.5)}
    if "loss_reg" in settings:
        fields["loss.regression"] = settings["loss_reg"] is not None
    classification = settings.get("loss_cls")
    if isinstance(classification, Mapping) and classification.get("type") in _CLASSIFICATIONS:
        fields["loss.classification"] = _CLASSIFICATIONS[classification["type"]]
    alignment = settings.get("loss_sal")
    if isinstance(alignment, Mapping):
        directions = alignment.get("direction", ("row", "col"))
        directions = (directions,) if isinstance(directions, str) else directions
        fields["loss.alignment_directions"] = tuple(_DIRECTIONS.get(d, d) for d in directions)
        fields["loss.temperature"] = alignment.get("temperature", 0.07)
    return fields


def _data_fields(options: Options, config: Config) -> dict[str, Any]:
    """Fields of the data, without those that the authors' reader of this data set ignores."""
    fields: dict[str, Any] = {}
    if (limit := options.get("max_v_l")) is not None:
        fields["data.max_clips"] = None if limit < 0 else limit
        if limit < 0:
            fields["data.buckets"] = None
        elif config.data.buckets is not None:
            # The last bucket holds the longest videos.
            shorter = [length for length in config.data.buckets if length < limit]
            fields["data.buckets"] = (*shorter, limit)
    # Words of these data sets are used as stored, neither cut nor normalised.
    folders = options.get("v_feat_dirs") or ("",)
    glove = "vgg" in (folders if isinstance(folders, str) else folders[0])
    if options.get("dset_name") not in ("tvsum", "youtube_uni") and not glove:
        if (limit := options.get("max_q_l")) is not None:
            fields["data.max_words"] = 100 if limit < 0 else limit  # 100 is what -1 means there
        if (unscaled := options.get("no_norm_tfeat")) is not None:
            fields["data.normalize_query"] = not unscaled
    if config.data.domains:
        domain = options.get("dset_domain")
        if domain not in config.data.domains:
            raise CheckpointError(
                f"its options name the domain {domain!r} (dset_domain); there are "
                f"{', '.join(config.data.domains)}"
            )
        fields["data.domains"] = (domain,)
    return fields


def _with_widths(config: Config, streams: Mapping[str, int], query_width: int) -> Config:
    """The configuration with these streams and widths."""
    overrides = {"data.video_streams": tuple(streams), "data.query_width": query_width}
    config = apply_overrides(config, overrides)
    with config.data.video_widths.unlocked():
        for name, width in streams.items():
            config.data.video_widths[name] = width
    return config
