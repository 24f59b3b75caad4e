"""The licence that pages, texts and licence files name for themselves."""

import json
from pathlib import Path
import re
import tarfile

import pytest

from gptjax import command
from gptjax.data import documents
from gptjax.data.origin import detect, optout, policy, spdx, table, texts

CC = 'https://creativecommons.org/licenses/'
LD = '<script type="application/ld+json">'


def licence(found):
    return found and found[0]


def golden():
    path = Path(__file__).parents[2] / 'golden' / 'licence_snippets.json'
    return json.loads(path.read_text())['snippets']


@pytest.mark.parametrize(('snippet', 'kind', 'version'), golden())
def test_the_snippets_of_dolma(snippet, kind, version):
    names = {'publicdomain/zero': 'CC0'}
    expected = f'{names.get(kind, f"CC-{kind.upper()}")}-{version}'
    assert licence(detect.from_html(snippet)) == expected


@pytest.mark.parametrize(
    ('html', 'expected'),
    [
        (f'<link rel="license" href="{CC}by/4.0/"><p>x', 'CC-BY-4.0'),
        (f'<meta name=DC.rights content="{CC}by/4.0/">', 'CC-BY-4.0'),
        (
            '<meta name="dcterms.rights" content="This work is licensed under a '
            'Creative Commons Attribution 4.0 International License.">',
            'CC-BY-4.0',
        ),
        ('<meta name=license content="All rights reserved">', 'LicenseRef-Proprietary'),
        (
            f'{LD}{{"@type": "Article", "license": "{CC}by/4.0/", "image": {{"@type": '
            f'"ImageObject", "license": "{CC}by-nc/4.0/"}}}}</script>',
            'CC-BY-4.0',
        ),
        (
            f'{LD}{{"@graph": [{{"@type": "ImageObject", "license": "{CC}by/4.0/"}}]}}'
            '</script>',
            None,
        ),
        (LD + '{"license": ' + '[' * 99_999, None),
        # What a page says for itself is stronger than what stands beside a picture.
        (
            f'<meta name=dcterms.license content="{CC}by-nc/4.0/"><p>'
            f'<a rel=license href="{CC}by/2.0/">CC</a>',
            'CC-BY-NC-4.0',
        ),
        (
            f'<figure><figcaption>Ann, <a rel=license href="{CC}by/2.0/">CC BY</a>',
            None,
        ),
        (f'<div class=wp-caption><a href="{CC}by/2.0/">CC BY 2.0</a></div>', None),
        (f'<p>Photo: Ann <a href="{CC}by/2.0/">CC BY 2.0</a>', None),
        (
            '<div itemscope itemtype="https://schema.org/ImageObject">'
            f'<a itemprop=license href="{CC}by/4.0/">x</a></div>',
            None,
        ),
        (f'<div class=comments><a rel=license href="{CC}by/4.0/">it</a>', None),
        (f'<blockquote>This page is under <a href="{CC}by/4.0/">CC</a>', None),
        (f'<!-- <a rel=license href="{CC}by/4.0/">x</a> -->', None),
        # Others' licences, and the licences that an article is about.
        (f'<p>X is licensed under <a href="{CC}by-sa/4.0/">CC BY-SA</a>.', None),
        (f'<p><a href="{CC}by/4.0/">BY</a> or <a href="{CC}by-nc/4.0/">NC</a>', None),
        # Two licences: both hold.
        (
            f'<p>Text <a rel=license href="{CC}by/4.0/">CC BY</a>, code '
            '<a rel=license href="https://opensource.org/licenses/MIT">MIT</a>',
            'CC-BY-4.0 AND MIT',
        ),
        (
            f'<footer><p>Text is available under the <a href="{CC}by-sa/4.0/">Creative '
            'Commons Attribution-ShareAlike License 4.0</a>; terms apply</footer>',
            'CC-BY-SA-4.0',
        ),
        (
            '<div id=footer>Except where otherwise noted, content on this site is '
            'licensed under a Creative Commons Attribution-NonCommercial 3.0 License.',
            'CC-BY-NC-3.0',
        ),
        (
            '<footer>Content is available under <a href="https://www.gnu.org/x">GNU '
            'Free Documentation License 1.3 or later</a> unless otherwise noted.',
            'GFDL-1.3-or-later',
        ),
        (f'<footer><a rel=license href="{CC}by/">x</a></footer>', 'LicenseRef-CC-BY'),
        ('<p>A page without a licence', None),
        # Links of one picture, of footnotes, lists, samples, negations, other things.
        (f'<img src=a.jpg><p><a href="{CC}by/2.0/">CC BY 2.0</a></p><p>Text', None),
        (f'<div><img src=a.jpg><a rel=license href="{CC}by/2.0/">x</a></div>', None),
        (f'<table><td><img src=a><td><a rel=license href="{CC}by/2.0/">x</a>', None),
        (f'<p><a rel=license href="{CC}by/2.0/">CC BY</a> image by Ann', None),
        (f'<div class=footnotes><p>See <a href="{CC}by/2.0/">it</a></div>', None),
        (f'<h1>Which to choose</h1><ul><li><a href="{CC}by/4.0/">BY</a></ul>', None),
        (f'<footer>This page is not under <a href="{CC}by/4.0/">BY</a></footer>', None),
        (f'<q>This page is under <a href="{CC}by/4.0/">CC BY</a></q>', None),
        ('<div class=license><pre>This work is under CC BY 4.0</pre></div>', None),
        ('<div id=license>This software is licensed under the MIT license.', None),
        ('<footer>© Ann. Powered by X. Licensed under the MIT license.', None),
        (f'<footer><a rel=license href="{CC}by/4.0/">x</a> <a rel=license '
         'href="https://example.org/mine">mine</a></footer>', None),
        (f'<meta name=dc.rights content="© X. All rights reserved."><p><a rel=license '
         f'href="{CC}by/4.0/">x</a>', 'LicenseRef-Proprietary'),
        (f'<p><a rel=license href="{CC}by/4.0/"><img src=/badge.png></a> This work is '
         f'licensed under <a rel=license href="{CC}by/4.0/">CC BY</a>', 'CC-BY-4.0'),
        ('', None),
    ],
)  # fmt: skip
def test_pages(html, expected):
    assert licence(detect.from_html(html)) == expected


GNU = (
    ' * This program is free software: you can redistribute it and/or modify\n'
    ' * it under the terms of the GNU General Public License as published by\n'
    ' * the Free Software Foundation, {}\n'
)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('/* SPDX-License-Identifier: GPL-2.0 OR MIT */\n', 'GPL-2.0-only OR MIT'),
        ('# SPDX-License-Identifier: MIT\nSPDX-License-Identifier: ISC', 'ISC AND MIT'),
        ('# SPDX-License-Identifier: mine', None),
        ('(* SPDX-License-Identifier: MIT *)', 'MIT'),
        ('"""SPDX-License-Identifier: MIT"""', 'MIT'),
        ('x' * 9000 + '\n# SPDX-License-Identifier: MIT', None),  # an example
        ('# Licensed under the Apache License, Version 2.0 (the\n# "License"); you may',
         'Apache-2.0'),
        ('// This Source Code Form is subject to the terms of the Mozilla Public\n'
         '// License, v. 2.0. If a copy', 'MPL-2.0'),
        (GNU.format('either version 3 of the License,\n * or any later version'),
         'GPL-3.0-or-later'),
        (GNU.format('version 2.'), 'GPL-2.0-only'),
        ('Permission is granted to copy, distribute and/or modify this document under '
         'the terms of the GNU Free Documentation License, Version 1.3 or any later '
         'version published by the Free Software Foundation', 'GFDL-1.3-or-later'),
        ('# Tool\n\n## License\n\nMIT © Ann', 'MIT'),
        ('License\n=======\n\nDual-licensed under MIT or ISC', 'MIT OR ISC'),
        ('**License:** CC BY 4.0', 'CC-BY-4.0'),
        ('This dataset is released under CC0 1.0.', 'CC0-1.0'),
        ('This work is licensed under either of Apache License, Version 2.0 or MIT '
         'license at your option.', 'Apache-2.0 OR MIT'),
        ('This work has been released into the public domain by its author.',
         'LicenseRef-Public-Domain'),
        ('This P.E.P. is licensed under the Open Publication License; x', 'OPUBL-1.0'),
        # Not the work's own licence, or not all of what it says.
        ('The company released its model under the MIT license.', None),
        ('This article explains why a model was released under the MIT license.', None),
        ('This text is not in the public domain.', None),
        ('This document is licensed under CC BY 4.0 (non-commercial use only)', None),
        ('License: CC BY 4.0 except for images', None),
        ('This software is licensed under the BSD license.', None),  # which?
        ('This work is licensed under the GPL with exceptions.', None),
        ('', None),
        # Negated, doubted, quoted, past, of a part, an example, restricted elsewhere.
        ('This software is not licensed under MIT.', None),
        ('This work is never in the public domain.', None),
        ('If this work is licensed under the MIT license, copy it.', None),
        ('Could this code be licensed under the MIT license?', None),
        ('Whether this code is licensed under the MIT license is disputed.', None),
        ('This package was licensed under the MIT license until 2019.', None),
        ('Prior versions of this software were licensed under the MIT license. This '
         'software is now licensed under the BUSL-1.1.', 'BUSL-1.1'),
        ('Parts of this software are licensed under the MIT license.', None),
        ('Write "This work is licensed under the MIT license." in a README.', None),
        ('Put this in a file: This code is licensed under the MIT license.', None),
        ('A tutorial\n\n```\nSPDX-License-Identifier: MIT\n```\nThat is it.', None),
        ('To choose, write SPDX-License-Identifier: MIT in the first line.', None),
        ('```yaml\nlicense: MIT\n```\n', None),
        ('setup.cfg:\n\n    license = x\n    license: MIT\n', None),
        ('> This work is licensed under the MIT license.', None),
        ('We use React. Licensed under the MIT license, it is popular.', None),
        ('The text was released under the MIT license by X.', None),
        ('## Licence\n\nMIT is a popular choice; others are not.', None),
        ('Pythia\nLicense: Apache-2.0\n\nLlama\nLicense: Meta\n', None),
        ('License: MIT\n\nLicense: GPL-3.0\n', None),
        ('This book is in the public domain in Canada.', None),
        ('Many say that one can copy it under the terms of the GNU General Public '
         'License as published by the Free Software Foundation; version 2', None),
        ('This dataset is available under CC BY 4.0. Commercial use is prohibited.',
         None),
        ('This code is licensed under the MIT license and the Commons Clause.', None),
        ('This code is licensed under the MIT license. This program is licensed under '
         'my own terms.', None),
        ('Talk. ' * 2000 + 'This work is licensed under MIT. ' + 'Talk. ' * 2000, None),
        ('Talk. ' * 4000 + 'This work is licensed under MIT.', 'MIT'),
    ],
)  # fmt: skip
def test_texts(text, expected):
    assert licence(detect.from_text(text)) == expected


@pytest.mark.timeout(60)
def test_a_long_text_takes_linear_time():
    hostile = [
        'this work is licensed under ' * 40_000,
        'this ' * 200_000 + 'licence',
        'license:' + ' ' * 200_000 + '\n' * 200_000,
        '/*' * 300_000 + 'license',
        'a ' * 300_000 + 'public domain',
        '# licence\n' + '#' * 5000 + '\n' + '=' * 5000,
        '`' * 50_000 + 'licence' + '`this' * 9000,
        'this is under licence ' + 'is ' * 30_000,
        'licence' + '\n ' * 50_000 + '. ' * 5000,
    ]
    for text in hostile:
        detect.from_text(text)


@pytest.mark.timeout(60)
def test_a_hostile_page_is_read_in_time():
    link = f'<a rel=license href="{CC}by/4.0/">x</a>'
    pages = {
        '<div>' * 100_000 + link: 'CC-BY-4.0',
        link * 5_000: 'CC-BY-4.0',
        LD + '{"@graph":[' * 30_000: None,
        f'\ud800{link}': 'CC-BY-4.0',
        '<meta name=robots content="x">' * 20_000 + '<p>noai': None,
    }
    for page, expected in pages.items():
        assert licence(detect.from_html(page)) == expected
        assert optout.from_html(page) is None


def test_licence_files_of_every_family(real_data):
    with tarfile.open(real_data('license_texts/licenses.tar.gz')) as archive:
        files = [
            archive.extractfile(one).read().decode() for one in archive if one.isfile()
        ]
    checked = 0
    for content in files:
        if not content.startswith('---\n'):
            continue
        _, head, body = content.split('---\n', 2)
        expected = spdx.parse(re.search(r'spdx-id: (\S+)', head)[1])
        for year, name in (
            ('2024', 'Ann Bee'),
            ('1998-2003', 'MIT & Apache, Inc. <a@b>'),
        ):
            filled = body.replace('[year]', year).replace('[fullname]', name)
            commented = ''.join(f' * {line}\n' for line in filled.splitlines())
            for text in (filled, ' '.join(filled.split()), commented):
                assert texts.identify(text) == [expected]
        assert licence(detect.from_text(body)) == expected
        checked += 1
    assert checked == 47


def test_two_licence_texts_in_one_file_both_hold(real_data):
    with tarfile.open(real_data('license_texts/licenses.tar.gz')) as archive:
        both = [
            archive.extractfile(f'_licenses/{name}.txt').read().decode()
            for name in ('mit', 'mpl-2.0')
        ]
    assert licence(detect.from_text('\n'.join(both))) == 'MIT AND MPL-2.0'


def footer(text):
    """What the last section 'Copyright' of a PEP says: a rule of its own."""
    sections = re.findall(r'(?im)^ ?copyright\n ?[=-]+\n+((?:.+\n?)+)', text)
    words = ' '.join(sections[-1].lower().split()) if sections else ''
    if 'open publication' in words:
        return 'OPUBL-1.0'
    if 'public domain or under the' in words:
        return 'LicenseRef-Public-Domain OR CC0-1.0'
    if 'under the terms of the cc0' in words:
        return 'CC0-1.0'
    return 'LicenseRef-Public-Domain' if 'public domain' in words else None


def test_the_footers_of_peps(real_data):
    with tarfile.open(real_data('python_peps/peps.tar.gz')) as archive:
        peps = {
            one.name: archive.extractfile(one).read().decode()
            for one in archive
            if one.isfile() and one.name.endswith('.rst')
        }
    sample = {name: peps[name] for name in sorted(peps)[::6]}
    found = {name: licence(detect.from_text(text)) for name, text in sample.items()}
    expected = {name: footer(text) for name, text in sample.items()}
    expected['pep-0009.rst'] = 'LicenseRef-Public-Domain'  # says so in its template
    assert found == expected
    assert sum(one is not None for one in found.values()) >= 0.9 * len(found)


def test_books(real_data):
    book = real_data('gutenberg_editions/1342.txt').read_text(errors='replace')
    assert licence(detect.from_text(book)) == 'LicenseRef-Public-Domain'
    mine = book.replace(
        'The Project', 'This is a COPYRIGHTED Project Gutenberg eBook', 1
    )
    assert detect.from_text(mine) is None
    name = 'standardebooks/h-g-wells_the-time-machine.tar.gz'
    with tarfile.open(real_data(name)) as archive:
        (page,) = (m for m in archive.getmembers() if 'uncopyright' in m.name)
        html = archive.extractfile(page).read().decode()
    plain = re.sub('<[^>]+>', '', html)
    said = 'this ebook are believed to be in the United States public domain'
    assert detect.from_text(plain) == ('LicenseRef-Public-Domain AND CC0-1.0', said)


def test_the_words_that_say_so_are_given_in_short():
    text = 'Intro. This work is licensed under CC BY 4.0 by its author. More.'
    said = 'This work is licensed under CC BY 4.0 by its author.'
    assert detect.from_text(text) == ('CC-BY-4.0', said)
    text = '# Copyright Ann\n#\n# Licensed under the Apache License, Version 2.0\n'
    said = 'Copyright Ann Licensed under the Apache License, Version 2.0'
    assert detect.from_text(text) == ('Apache-2.0', said)
    text = 'This work is licensed under the MIT license ' + 'and so on ' * 50
    assert len(detect.from_text(text)[1]) < 170


def document(text, **also):
    fields = {'id': 'a', 'source': 'b/c', 'licence': 'unknown'} | also
    return documents.Document(**fields, text=text)


def test_the_step_finds_licences_only_where_there_is_none():
    step = table.STEPS['licence']()
    page = f'<footer><a rel=license href="{CC}by/4.0/">x</a></footer>'
    found = step(document(page, media='text/html'))
    assert (found.licence, found.evidence) == ('CC-BY-4.0', f'rel=license {CC}by/4.0/')
    assert step(document('## License\n\nMIT')).licence == 'MIT'
    for same in (document('License: MIT', licence='ISC'), document('nothing')):
        assert step(same) is same


def test_the_step_keeps_to_refusals():
    keep, strict = (table.STEPS['opt_out'](unknown=x) for x in ('keep', 'reject'))
    for asked in ('noai', 'tdmrep', 'ai.txt', 'robots.txt'):
        assert keep(document('x', opt_out=asked)) == documents.Reject('opt_out', asked)
    assert keep(document('x')).opt_out == 'unknown'
    assert strict(document('x')) == documents.Reject('opt_out', 'unknown')
    assert strict(document('x', opt_out='none')).text == 'x'
    page = document(
        '<meta name=robots content=noai>', media='text/html', opt_out='none'
    )
    assert keep(page) == documents.Reject('opt_out', 'noai')
    with pytest.raises(command.UserError, match="'keep' or 'reject'"):
        policy.opt_out(unknown='maybe')


def test_opt_outs_are_read_as_written():
    assert optout.from_headers({'X-ROBOTS-TAG': 'a: noai, nofollow'}) == 'noai'
    assert optout.from_headers({'x-robots-tag': 'noaiX, cyanoai'}) is None
    assert optout.from_headers({'tdm-reservation': '10'}) is None
    assert optout.from_headers({}) is None
    page = (
        '<meta name="keywords" content="noai"><meta name=googlebot content=noimageai>'
    )
    assert optout.from_html(page) == 'noai'
    assert optout.from_html('<meta name="keywords" content="noai">') is None
    assert (
        optout.from_html('<script>"<meta name=robots content=noai>"</script>') is None
    )
