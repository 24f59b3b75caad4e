"""Language identification on the Universal Declaration of Human Rights."""

import zipfile

import pytest

from experiments.benchmarks import _data_clean
from gptjax import command
from gptjax.data import documents
from gptjax.data.clean import language


def document(text):
    return documents.Document(id='a', source='web/a', licence='CC0-1.0', text=text)


def test_accuracy_on_the_languages_that_it_knows(real_data):
    """115 texts; those missed are other scripts, and Serbian, Croatian, Bosnian."""
    step = language.language(keep=None, least=0.0, characters=500)
    right = []
    with zipfile.ZipFile(real_data('udhr/udhr2.zip')) as archive:
        for name, code in _data_clean.UDHR.items():
            text = archive.read(f'udhr2/{name}.txt').decode()
            right.append(step(document(text)).language == code)
    assert len(right) == 115
    assert sum(right) >= 108


ENGLISH = 'The old bridge over the river was built by the people of the village. '
FRENCH = 'Le vieux pont sur la rivière a été construit par les gens du village. '


def test_what_is_kept_and_what_is_rejected():
    step = language.language(keep=('en', 'de'), least=0.5, characters=100)
    made = step(document(ENGLISH))
    assert made.language == 'en'
    assert 0.5 < made.signals['language'] <= 1
    assert step(document(FRENCH)) == documents.Reject('language', 'fr')
    sure = language.language(keep=None, least=1.0, characters=100)
    found = sure(document('la la'))
    assert found.reason == 'unsure'
    assert 0 < found.value < 1


def test_only_the_start_is_looked_at():
    text = ENGLISH + FRENCH * 20
    short = language.language(keep=None, least=0.0, characters=len(ENGLISH))
    long = language.language(keep=None, least=0.0, characters=len(text))
    assert short(document(text)).language == 'en'
    assert long(document(text)).language == 'fr'


def test_wrong_options_of_language():
    with pytest.raises(command.UserError, match="'english'"):
        language.language(keep=('english',), least=0.5, characters=100)
    with pytest.raises(command.UserError, match='characters >= 1'):
        language.language(keep=None, least=0.5, characters=0)
