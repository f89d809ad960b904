"""The tiny data set of the training tests, for studies that train."""

from tests.training.conftest import tiny_config as tiny_config
from tests.training.conftest import tiny_data as tiny_data
