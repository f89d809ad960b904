"""Ids of videos: which source video an excerpt was cut from."""

import re

from flashvtg_jax.errors import ConfigError

_TRAILING_TIMES = re.compile(r"_\d+(\.\d+)?_\d+(\.\d+)?$")


def youtube_id(vid: str) -> str:
    """Returns the source video of a QVHighlights excerpt: `vid` without its two trailing times.

    For "NUsG9BgSes0_210.0_360.0" it is "NUsG9BgSes0". An id without times is returned as it is.
    """
    return _TRAILING_TIMES.sub("", vid)


def source_video(vid: str, kind: str) -> str:
    """Returns the name of the video that an excerpt was cut from.

    Args:
      vid: video id of an annotation.
      kind: `config.data.source_video`: "youtube_id" removes the two times from the end of `vid`, if
        it has them; "vid" does not.

    Raises:
      ConfigError: another kind.
    """
    if kind == "youtube_id":
        return youtube_id(vid)
    if kind == "vid":
        return vid
    raise ConfigError(f"config.data.source_video={kind!r} must be 'youtube_id' or 'vid'")
