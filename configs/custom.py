"""Your own data: any features of videos and queries, in a folder laid out as below.

    flashvtg train --config=custom:DIR --workdir=runs/mine --config.clip_length=2

    DIR/train.jsonl, DIR/val.jsonl      annotation lines, in the format of QVHighlights
    DIR/video/STREAM/{vid}.npz          a folder for each kind of features of the clips; .npy, .pt
    DIR/query/{qid}.npz                 features of the words

Names and widths of the features are read from the files. tfds_builders/custom/README.md is the
guide. A configuration of your own can start from this one, or from any other:

    from flashvtg_jax.configs import custom, tacos_slowfast_clip

    def get_config(arg=None):
        return custom.use_folder(tacos_slowfast_clip.get_config(), arg)

There are no published numbers.
"""

import os

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from flashvtg_jax.configs import common
from flashvtg_jax.data.dataset_names import dataset_for


def get_config(arg: str | None = None) -> ConfigDict:
    """The settings that most data sets share. The argument is the folder."""
    config = common.get_common()
    config.name = "custom"  # of the experiment
    for section in (config, config.loss, config.data):
        del section.clip_length  # or it could not be None
    config.clip_length = placeholder(float)  # length of a clip in seconds; has to be given
    for section in (config.loss, config.data):
        section.clip_length = config.get_ref("clip_length")  # seconds; config.clip_length

    config.loss.nearest_point = True  # moments shorter than clips are learned, too
    config.data.max_clips = None  # no limit
    config.data.max_words = 100  # longer queries are cut
    config.data.buckets = None  # lengths chosen by the split
    config.data.source_video = "vid"  # what excerpts of one source video share

    config.evaluation.window_range = None  # no limits
    return use_folder(config, arg)


def use_folder(config: ConfigDict, folder: str | None) -> ConfigDict:
    """Change a configuration to use the features in a folder, whatever they are.

    Args:
      config: changed and returned; not locked.
      folder: of features and annotations; None leaves it to the command line.
    """
    data = config.data
    if folder is not None:
        folder = os.path.abspath(os.path.expanduser(folder))
    data.manual_dir = folder  # where the files are, to build from
    data.dataset = dataset_for(folder or "mine")  # name to build it by
    data.data_dir = None  # in the work directory
    data.video_streams = ()  # all there are, in alphabetical order
    data.video_widths = ConfigDict()  # width of each stream
    for field in ("query_width", "labels"):
        del data[field]  # or they could not be None
    data.query_width = placeholder(int)  # width of a word's features; None: as in the files
    data.labels = placeholder(str)  # how saliency labels are made; None: from what there is
    return config
