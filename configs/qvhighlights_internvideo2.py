"""QVHighlights with InternVideo2 features of clips and LLaMA features of words.

    flashvtg build --dataset=qvhighlights/internvideo2 --manual_dir=DIR --data_dir=data
    flashvtg train --config=qvhighlights_internvideo2 --workdir=runs/qvhighlights_internvideo2

Published for FlashVTG, as later papers report it (IAE-VTG, DSE-VTG, IMG):

    split                      R1@0.5  R1@0.7  mAP@0.5  mAP@0.75  mAP avg
    test                        70.69   53.96    72.33     53.85    52.00
    val                         73.10   57.29    72.75     54.33    52.84
    val, run by another group   71.48   56.06    72.37     55.03    52.61

11.81 M parameters, 168 queries/s on an RTX A6000 (reported by IAE-VTG).
"""

from ml_collections import ConfigDict

from flashvtg_jax.configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """The authors' settings. Takes no argument."""
    config = common.get_common()
    config.name = "qvhighlights_internvideo2"  # of the experiment
    common.refuse_argument(config.name, arg)

    config.model.strides = (1.0, 2.0, 4.0, 8.0, 16.0)  # clips; one level more than with SlowFast
    config.loss.label_loss_coef = 0.0  # no clip-aware score loss

    config.data.dataset = "qvhighlights/internvideo2"  # TFDS name: builder/config
    config.data.video_streams = ("internvideo2",)  # the only features of a clip
    config.data.video_widths = ConfigDict()  # width of each stream
    config.data.video_widths.internvideo2 = 768  # InternVideo2 6B
    config.data.query_width = 4096  # width of a word's features: LLaMA
    config.train.evaluate_every_epochs = 5  # epochs between evaluations
    return config
