"""The command: its flags reach the engine, and bad ones end it with one message."""

import pytest

from gptjax import command
from gptjax.generate import __main__ as generate
from gptjax.generate import engine as engine_lib
from gptjax.train import build


@pytest.fixture
def run(flat, monkeypatch, capfd):
    """Runs the command over a model of one layer: (exit code, output, errors)."""
    monkeypatch.setattr(build, 'load', lambda workdir: flat)

    def call(*flags):
        given = ('generate', '--workdir=there', '--prompt=abcabcab', *flags)
        monkeypatch.setattr('sys.argv', list(given))
        try:
            command.run(generate.main)
        except SystemExit as ended:
            return ended.code, *capfd.readouterr()
        return 0, *capfd.readouterr()

    return call


def test_forms_of_weights_and_caches_and_drafts_are_flags(run, monkeypatch):
    """Catches a flag that is parsed and goes nowhere."""
    made = []
    real = engine_lib.Engine.__init__

    def watched(self, *parts, **settings):
        made.append(settings)
        real(self, *parts, **settings)

    monkeypatch.setattr(engine_lib.Engine, '__init__', watched)
    code, said, err = run(
        '--weights=int8', '--cache=int8', '--speculate=2', '--temperature=0',
        '--max_tokens=9',
    )  # fmt: skip
    assert (code, bool(said)) == (0, True)
    assert '9 tokens; no token was left' in err
    assert made == [{'weights': 'int8', 'cache': 'int8', 'drafted': 2}]


@pytest.mark.parametrize(
    ('flag', 'said'),
    [
        ('--weights=int9', "unknown weights 'int9'; did you mean 'int8'"),
        ('--cache=nf4', "unknown cache 'nf4'"),
        ('--speculate=64', '64 tokens cannot be drafted; it is 0 (off) to 63'),
        ('--speculate=-1', '-1 tokens cannot be drafted'),
        ('--speculate=many', "invalid int value: 'many'"),
    ],
)
def test_bad_flags_end_with_2_and_one_message(run, flag, said):
    code, out, err = run(flag)
    assert (code, out) == (2, '')
    assert said in err
    assert 'Traceback' not in err
