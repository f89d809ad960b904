"""TVSum: highlights of 50 web videos in ten domains, rated by twenty annotators."""
