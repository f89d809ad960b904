"""TFDS builders of the data sets that FlashVTG is trained and evaluated on, a folder each."""
