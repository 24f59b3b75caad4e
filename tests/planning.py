"""What tests of plans begin with: a job from a config, and an optimizer with less."""

from gptjax.plan import job
from gptjax.train import settings as settings_lib

ADAFACTOR = dict(
    name='adafactor', decay_rate=0.8, threshold=1.0, parameter_scale=True,
    learning_rate=1e-3, warmup_steps=0, final_learning_rate=0.0, weight_decay=0.0,
    clip_norm=1.0, freeze=(),
)  # fmt: skip


def job_of(config) -> job.Job:
    return job.Job(settings_lib.of(config))
