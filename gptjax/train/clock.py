"""How fast a run trains: tokens per second, and the share of the devices' peak."""

import dataclasses

from gptjax.model import cost
from gptjax.train import build, flops, phases


class Clock:
    """Seconds of training alone, and what was done in them.

    tokens: of the step after `step`, over all devices.
    """

    def __init__(self, run: build.Run, spent: phases.Phases, step: int, tokens: int):
        self._data = run.data
        self._row = tokens / run.data.rows_at(step)
        devices = run.model.sharding.mesh.devices
        peak = flops.peak(devices.flat[0])
        self._peak = peak * devices.size if peak else None
        self._flops = flops_per_token(run, rollouts=True)
        self._spent, self._start = spent, spent.training()
        self._last = (step, 0.0)

    @property
    def seconds(self) -> float:
        """Of training, since this was made."""
        return self._spent.training() - self._start

    def speed(self, step: int) -> float:
        """Tokens per second since the last call."""
        last_step, last_seconds = self._last
        self._last = step, self.seconds
        rows = sum(self._data.rows_at(n) for n in range(last_step, step))
        return rows * self._row / (self.seconds - last_seconds)

    def mfu(self, speed: float) -> float | None:
        """The share of the devices' peak that went into the model's own products."""
        return speed * self._flops / self._peak if self._peak else None


def flops_per_token(
    run: build.Run, *, causal: bool = False, rollouts: bool = False
) -> float:
    """Operations for one token of a step, full or causal as in `cost`.

    rollouts: with the part of a token of a rollout, where there are some.
    """
    arch = dataclasses.replace(run.model.arch, T=run.T)
    passes = 2 / 3 if run.base_digest else 1  # no gradient of the base's weights
    # A reference goes forward too, which is a third of forward and backward.
    forward = 1.0 if 'reference' in run.objective.frozen else 0.0
    if rollouts and run.rollout:  # which are written and read once, for some epochs
        forward = (forward + 2) / run.rollout.epochs
    of = cost.causal_flops_per_token if causal else cost.flops_per_token
    return of(arch) * (passes + forward / 3)
