"""Licences by name, address and expression, against lists that others published."""

import itertools

import pytest

from gptjax import command
from gptjax.data import documents
from gptjax.data.origin import policy, spdx

NAMES = {
    'MIT': 'MIT',
    'The MIT License': 'MIT',
    'License :: OSI Approved :: MIT License': 'MIT',
    'The MIT License (MIT)': 'MIT',
    'GNU General Public License v3 (GPLv3)': 'GPL-3.0-only',
    'Expat': 'MIT',
    'Apache License, Version 2.0': 'Apache-2.0',
    'apache 2': 'Apache-2.0',
    'BSD 3-Clause "New" or "Revised" License': 'BSD-3-Clause',
    'Zlib/libpng': 'Zlib',
    'GPL-2.0': 'GPL-2.0-only',
    'GPL-2.0+': 'GPL-2.0-or-later',
    'GPLv3+': 'GPL-3.0-or-later',
    'GNU General Public License v3.0 or later': 'GPL-3.0-or-later',
    'LGPL 2.1': 'LGPL-2.1-only',
    'AGPL-3.0-only': 'AGPL-3.0-only',
    'GPL': 'GPL-1.0-or-later',  # section 9: without a version, any
    'CC BY-SA 4.0': 'CC-BY-SA-4.0',
    'CC-BY-3.0-US': 'CC-BY-3.0',
    'Creative Commons Attribution-ShareAlike 4.0 International': 'CC-BY-SA-4.0',
    'Creative Commons Attribution Non Commercial No Derivatives 3.0 Unported License':
        'CC-BY-NC-ND-3.0',
    'cc by-sa': 'LicenseRef-CC-BY-SA',
    'CC0': 'CC0-1.0',
    'CC0 1.0 Universal': 'CC0-1.0',
    'CC0-1.0-Universal license': 'CC0-1.0',
    'public domain': 'LicenseRef-Public-Domain',
    'LicenseRef-mine': 'LicenseRef-mine',
    # Addresses.
    'https://creativecommons.org/licenses/by-sa/4.0/': 'CC-BY-SA-4.0',
    'http://creativecommons.org/licenses/by-nd/3.0/hr/legalcode.hr': 'CC-BY-ND-3.0',
    '//creativecommons.org/publicdomain/zero/1.0/?ref=x': 'CC0-1.0',
    'https://opensource.org/licenses/MIT': 'MIT',
    'https://opensource.org/license/bsd-3-clause/': 'BSD-3-Clause',
    'https://www.gnu.org/licenses/gpl-3.0.html': 'GPL-3.0-only',
    'https://www.gnu.org/licenses/old-licenses/lgpl-2.1.en.html': 'LGPL-2.1-only',
    'https://www.gnu.org/copyleft/fdl.html': 'GFDL-1.1-or-later',
    'https://www.apache.org/licenses/LICENSE-2.0.txt': 'Apache-2.0',
    'https://www.mozilla.org/en-US/MPL/2.0/': 'MPL-2.0',
    'https://spdx.org/licenses/ISC.html': 'ISC',
    'https://www.nationalarchives.gov.uk/doc/open-government-licence/version/3/':
        'OGL-UK-3.0',
    'https://opendatacommons.org/licenses/odbl/1-0/': 'ODbL-1.0',
    # Expressions.
    'MIT OR Apache-2.0': 'MIT OR Apache-2.0',
    'MIT/Apache-2.0': 'MIT OR Apache-2.0',
    'mit or apache-2.0 and bsd-3-clause': 'MIT OR Apache-2.0 AND BSD-3-Clause',
    '(MIT or Apache 2) and cc by 4.0': '(MIT OR Apache-2.0) AND CC-BY-4.0',
    '((MIT))': 'MIT',
    'MIT AND MIT': 'MIT',
    'GPL-2.0 WITH classpath-exception-2.0':
        'GPL-2.0-only WITH Classpath-exception-2.0',
    'LGPL 2.1 or any later version or MIT': 'LGPL-2.1-or-later OR MIT',
}  # fmt: skip
UNKNOWN = [
    '', 'unknown', 'BSD', 'Apache', 'MIT OR', 'OR', '()', '(MIT', 'MIT)', 'MIT OR BSD',
    'MIT Apache-2.0', 'MIT-style', 'CC BY 5.0', 'by', 'attribution', 'CC BY-ND-SA 4.0',
    'CC BY 4.0 non commercial', 'CC BY 4.0 except images', 'CC BY 4.0 NC', 'CC0 NC',
    'https://example.org/licenses/MIT', 'https://creativecommons.org/about/',
    'GPL-2.0 WITH no-exception', '(' * 5000, '(' * 999, 'MIT (no)', 'MIT (ISC)',
    'MIT OR ' * 100, '不MIT',
]  # fmt: skip


@pytest.mark.parametrize(('name', 'expected'), NAMES.items())
def test_names_addresses_and_expressions(name, expected):
    assert spdx.parse(name) == expected
    assert spdx.parse(expected) == expected


@pytest.mark.parametrize('name', UNKNOWN)
def test_what_is_not_known_is_never_allowed(name):
    assert spdx.parse(name) == 'unknown'
    everything = ['unknown', 'MIT', 'CC-BY-4.0', 'BSD-3-Clause', name]
    assert not spdx.allowed(name, everything)


# The addresses and names that Common Pile's list of licences has (MIT), with what SPDX
# calls them.
COMMON_PILE = {
    'Public Domain': 'LicenseRef-Public-Domain',
    'https://creativecommons.org/publicdomain/zero/1.0/': 'CC0-1.0',
    'https://creativecommons.org/publicdomain/mark/1.0/': 'CC-PDM-1.0',
    'https://creativecommons.org/licenses/by/4.0/': 'CC-BY-4.0',
    'https://creativecommons.org/licenses/by/3.0/': 'CC-BY-3.0',
    'https://creativecommons.org/licenses/by/2.5/': 'CC-BY-2.5',
    'https://creativecommons.org/licenses/by/2.0/': 'CC-BY-2.0',
    'https://creativecommons.org/licenses/by-sa/4.0/': 'CC-BY-SA-4.0',
    'https://creativecommons.org/licenses/by-sa/3.0/': 'CC-BY-SA-3.0',
    'https://creativecommons.org/licenses/by-sa/2.5/': 'CC-BY-SA-2.5',
    'https://creativecommons.org/licenses/by-sa/2.1/': 'CC-BY-SA-2.1',
    'https://creativecommons.org/licenses/by-sa/1.0/': 'CC-BY-SA-1.0',
    'GNU Free Documentation License': 'GFDL-1.1-or-later',
    'https://www.apache.org/licenses/LICENSE-2.0': 'Apache-2.0',
    'MIT License': 'MIT',
    'BSD 2-Clause': 'BSD-2-Clause',
    'BSD 3-Clause': 'BSD-3-Clause',
    'ISC License': 'ISC',
    'Artistic License 2.0': 'Artistic-2.0',
    'Community Data License Agreement - Permissive 1.0': 'CDLA-Permissive-1.0',
    'https://cdla.dev/permissive-1-0/': 'CDLA-Permissive-1.0',
    'https://www.parliament.uk/site-information/copyright-parliament/'
    'open-parliament-licence/': 'OPL-UK-3.0',
    'Creative Commons - Attribution Non-Commercial': 'LicenseRef-CC-BY-NC',
    'Creative Commons - Attribution Non-Commercial Share-Alike':
        'LicenseRef-CC-BY-NC-SA',
    'Creative Commons - Attribution No Derivatives': 'LicenseRef-CC-BY-ND',
    'Creative Commons - Attribution Non-Commercial No Derivatives':
        'LicenseRef-CC-BY-NC-ND',
    'GNU General Public License': 'GPL-1.0-or-later',
}  # fmt: skip


def test_the_list_of_common_pile():
    assert {name: spdx.parse(name) for name in COMMON_PILE} == COMMON_PILE


def test_every_creative_commons_licence():
    for flags, version in itertools.product(
        ['', '-nc', '-nd', '-sa', '-nc-nd', '-nc-sa'],
        ['1.0', '2.0', '2.5', '3.0', '4.0'],
    ):
        name = spdx.parse(f'https://creativecommons.org/licenses/by{flags}/{version}/')
        assert name == f'CC-BY{flags.upper()}-{version}'


@pytest.mark.parametrize(
    ('expression', 'licences', 'expected'),
    [
        ('MIT', ['MIT'], True),
        ('MIT', [], False),
        ('MIT OR GPL-3.0', ['MIT'], True),
        ('MIT AND GPL-3.0', ['MIT'], False),
        ('MIT AND GPL-3.0', ['GPL-3.0-only', 'The MIT License'], True),
        ('MIT AND (GPL-3.0 OR ISC)', ['MIT', 'ISC'], True),
        ('GPL-3.0 OR MIT AND ISC', ['MIT'], False),  # AND binds more
        ('GPL-2.0', ['GPL-2.0-only'], True),
        ('GPL-2.0-or-later', ['GPL-3.0-only'], True),
        ('GPL-2.0-only', ['GPL-3.0-only', 'GPL-2.0-or-later'], False),
        ('GPL-3.0-or-later', ['GPL-2.0-only'], False),
        ('GPL-2.0-or-later', ['LGPL-3.0-only', 'AGPL-3.0-only'], False),
        ('GPL-2.0 WITH Classpath-exception-2.0', ['GPL-2.0'], True),
        ('GPL-2.0', ['GPL-2.0 WITH Classpath-exception-2.0'], False),
        ('CC-BY-NC-4.0', ['CC-BY-4.0'], False),
        ('CC-BY-4.0', ['CC-BY-SA-4.0'], False),
        ('unknown', ['unknown'], False),
        ('(MIT OR ISC) AND (Zlib OR (MIT AND GPL-3.0))', ['ISC', 'Zlib'], True),
        ('(MIT OR ISC) AND (Zlib OR (MIT AND GPL-3.0))', ['MIT'], False),
        ('(MIT OR ISC) AND (Zlib OR (MIT AND GPL-3.0))', ['MIT', 'GPL-3.0'], True),
        ('GPL-2.0-or-later', ['GPL-3.0 WITH Classpath-exception-2.0'], False),
    ],
)
def test_or_needs_one_and_needs_all(expression, licences, expected):
    assert spdx.allowed(expression, licences) is expected


def document(licence, **also):
    return documents.Document('a', 'b/c', licence, text='x', **also)


def test_a_policy_passes_what_it_names():
    allowed = policy.known(['MIT', 'Apache 2', 'LicenseRef-mine'])
    assert allowed == {'MIT', 'Apache-2.0', 'LicenseRef-mine'}
    given = document('MIT')
    assert policy.check(given, allowed) is given
    assert policy.check(document('the MIT license'), allowed).licence == 'MIT'
    for one in ('ISC', 'unknown', 'MIT AND ISC', 'nonsense'):
        assert policy.check(document(one), allowed) == documents.Reject('licence', one)
    with pytest.raises(command.UserError, match="'MTI', which is no SPDX"):
        policy.known(['MTI'])
    with pytest.raises(command.UserError, match='one licence each'):
        policy.known(['MIT OR ISC'])
    with pytest.raises(command.UserError, match='unknown'):
        policy.known(['unknown'])
