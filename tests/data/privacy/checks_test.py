"""Check digits on published examples, and with one digit changed."""

import pytest

from gptjax.data.privacy import checks, find

# A word that tells, and an example that the issuer or the specification publishes.
EXAMPLES = {
    'gb_nhs': 'NHS number 943 476 5919',
    'gb_nino': 'National Insurance QQ123456C'.replace('QQ', 'AB'),
    'es_dni': 'DNI 12345678Z',
    'fr_nir': '2 55 08 14 168 025 38',
    'de_id': 'Steuer-ID 86 095 742 719',
    'it_cf': 'MRTMTT25D09F205Z',
    'br_cpf': '111.444.777-35',
    'in_aadhaar': 'Aadhaar 2341 2341 2346',
}


@pytest.mark.parametrize('kind', EXAMPLES)
def test_examples_are_found_and_changed_ones_are_not(kind):
    text = EXAMPLES[kind]
    (span,) = find.find(text, (kind,))
    assert span.end == len(text)
    if kind == 'gb_nino':
        assert not find.find(text.replace('AB', 'GB'), (kind,))
        return
    for place in range(span.start, span.end):
        if text[place].isdecimal():
            digit = '1' if text[place] == '2' else '2'
            changed = text[:place] + digit + text[place + 1 :]
            assert not find.find(changed, (kind,)), changed


@pytest.mark.parametrize('kind', ['gb_nhs', 'es_dni', 'de_id', 'in_aadhaar'])
def test_numbers_that_many_are_like_need_a_word(kind):
    number = EXAMPLES[kind].split(' ', 1)[1].removeprefix('number ')
    assert not find.find(f'about {number} of them', (kind,))
    assert find.find(f'about {number} of them', (kind,), context=False)


def test_verhoeff_catches_what_luhn_does_not():
    """All neighbours exchanged, which the published example shows: 2363."""
    assert checks.verhoeff('2363')
    assert not checks.verhoeff('2336')
    assert not checks.verhoeff('3263')
    assert checks.luhn('79927398713')
    assert not checks.luhn('79927398710')
