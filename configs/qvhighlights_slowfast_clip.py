"""QVHighlights with SlowFast and CLIP features: moments and highlights, 75 clips of 2 s a video.

    flashvtg build --dataset=qvhighlights/slowfast_clip --manual_dir=DIR --data_dir=data
    flashvtg train --config=qvhighlights_slowfast_clip --workdir=runs/qvhighlights

Published on the test split with these features, by other methods (for FlashVTG itself later papers
report InternVideo2 features: see qvhighlights_internvideo2):

    method       R1@0.5  R1@0.7  mAP avg  HD mAP  HIT@1
    Moment-DETR   52.89   33.02    30.73   35.69  55.60
    UniVTG        58.86   40.86    35.47   38.20  60.96
    QD-DETR       62.40   44.98    39.86   38.94  62.40
    CG-DETR       65.43   48.38    42.86   40.33  66.21
    R2-Tuning     68.03   49.35    46.17   40.75  64.20
"""

from ml_collections import ConfigDict

from flashvtg_jax.configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """The authors' settings, which are the common ones. Takes no argument."""
    config = common.get_common()
    config.name = "qvhighlights_slowfast_clip"  # of the experiment
    common.refuse_argument(config.name, arg)
    return config
