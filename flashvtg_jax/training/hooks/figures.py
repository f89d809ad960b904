"""The curves of a finished run."""

from functools import partial

from flashvtg_jax.distributed.processes import on_lead_host
from flashvtg_jax.figures.training import plot_training
from flashvtg_jax.training.hooks.hook import Hook, Training


class Curves(Hook):
    """Draws `curves.png` at the end."""

    def on_end(self, training: Training) -> None:
        on_lead_host(partial(plot_training, training.run.workdir))
