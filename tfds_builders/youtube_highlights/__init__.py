"""YouTube Highlights: highlights of raw sports and dog videos in six domains."""
