"""A dataset in MLCommons Croissant 1.0, for tools that read data sets by description.

Every file is named with its SHA-256. The records are those of the ledger.
"""

from collections.abc import Iterator, Mapping
from typing import Any

FILE = 'croissant.json'
REFINED = 'documents'  # the folder of them in a dataset
_TERMS = (
    'citeAs', 'column', 'equivalentProperty', 'extract', 'field', 'fileObject',
    'fileProperty', 'fileSet',
    'format', 'includes', 'isLiveDataset', 'jsonPath', 'key', 'md5', 'parentField',
    'path', 'recordSet', 'references', 'regex', 'repeated', 'replace', 'samplingRate',
    'separator', 'source', 'subField', 'transform',
)  # fmt: skip
_CONTEXT = {
    '@language': 'en',
    '@vocab': 'https://schema.org/',
    'sc': 'https://schema.org/',
    'cr': 'http://mlcommons.org/croissant/',
    'rai': 'http://mlcommons.org/croissant/RAI/',
    'dct': 'http://purl.org/dc/terms/',
    'conformsTo': 'dct:conformsTo',
    'data': {'@id': 'cr:data', '@type': '@json'},
    'dataType': {'@id': 'cr:dataType', '@type': '@vocab'},
    'examples': {'@id': 'cr:examples', '@type': '@json'},
    **{term: f'cr:{term}' for term in _TERMS},
}
_ORIGIN = {
    'id': 'Stable, and unique in its corpus.',
    'source': 'A path below the name of the source.',
    'url': 'Where it was fetched.',
    'retrieved': 'When, as the record of the fetch says.',
    'licence': 'An SPDX identifier, or "unknown".',
    'evidence': 'What says the licence.',
    'opt_out': 'Whether its owner asks that it is not trained on.',
    'language': 'ISO 639-1.',
    'steps': 'What changed the text, and by how many characters.',
}
_NUMBERS = {
    'bytes': 'UTF-8 bytes of what a model learns to write.',
    'start': 'Where its tokens begin in the shard.',
    'end': 'Where they end.',
    'sequences': 'How many sequences they are.',
}
_LEDGER = {**_ORIGIN, 'sha256': 'Of the text with all that is known of it.', **_NUMBERS}
_DOCUMENTS = {
    **_ORIGIN,
    'text': 'The text, where it is one; else see messages, pair and translation.',
    'messages': 'A conversation, as JSON.',
    'pair': 'A preference pair, as JSON.',
    'translation': 'A source and a target, as JSON.',
}
_PARQUET = 'application/x-parquet'


def describe(manifest: Mapping[str, Any], refined: bool) -> dict[str, Any]:
    """The description of the dataset with this manifest, as JSON-LD.

    refined: whether its folder holds the documents that it was built of.
    """
    sets = {
        name: (f'{name}/*.parquet', f'The ledger of the {name} split.', _LEDGER)
        for name, split in sorted(manifest['splits'].items())
        if split['documents']
    }
    if refined:
        said = 'The documents that the dataset was built of.'
        sets[REFINED] = (f'{REFINED}/[0-9]*.parquet', said, _DOCUMENTS)
    total = totals(manifest)
    described = {
        '@context': _CONTEXT,
        '@type': 'sc:Dataset',
        'conformsTo': 'http://mlcommons.org/croissant/1.0',
        'name': f'gptjax-{manifest["digest"][:12]}',
        'description': (
            f'{total["documents"]:,} documents ({manifest["kind"]}) of '
            f'{total["tokens"]:,} tokens, built by gptjax; card.md says more.'
        ),
        'version': '1.0.0',
        'license': [licence_address(x) for x in licences(manifest)],
        'citeAs': f'A dataset built by gptjax, digest {manifest["digest"]}',
        'distribution': [
            *_files(manifest, refined),
            *(
                {
                    '@type': 'cr:FileSet',
                    '@id': f'{name}-files',
                    'name': f'{name}-files',
                    'encodingFormat': _PARQUET,
                    'includes': files,
                }
                for name, (files, *_) in sets.items()
            ),
        ],
        'recordSet': [
            {
                '@type': 'cr:RecordSet',
                '@id': name,
                'name': name,
                'description': said,
                'field': [_field(name, *column) for column in columns.items()],
            }
            for name, (_, said, columns) in sets.items()
        ],
    }
    if manifest['retrieved']['documents']:
        described['datePublished'] = manifest['retrieved']['between'][1]
    return described


def totals(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Documents, bytes and tokens of a whole dataset."""
    counts = ('documents', 'bytes', 'tokens')
    return {k: sum(row[k] for row in manifest['sources']) for k in counts}


def licences(manifest: Mapping[str, Any]) -> list[str]:
    """The licences of a dataset's documents, sorted."""
    return sorted({row['licence'] for row in manifest['sources']})


def licence_address(licence: str) -> str:
    """The page of an SPDX identifier; of an expression or 'unknown', the words."""
    plain = licence.replace('.', '').replace('-', '').replace('+', '').isalnum()
    if not plain or licence == 'unknown' or licence.startswith('LicenseRef-'):
        return licence
    return f'https://spdx.org/licenses/{licence}.html'


def _files(manifest: Mapping[str, Any], refined: bool) -> Iterator[dict[str, Any]]:
    digests = {
        name: digest
        for split in manifest['splits'].values()
        for part in split['segments']
        for shard in part['shards']
        for name, digest in sorted(shard['sha256'].items())
    }
    for one in manifest['refined']['files'] if refined else ():
        if 'documents_sha256' in one:
            digests[f'{REFINED}/{one["file"]}'] = one['sha256']
    for name, digest in digests.items():
        parquet = name.endswith('.parquet')
        yield {
            '@type': 'cr:FileObject',
            '@id': name,
            'name': name,
            'contentUrl': name,
            'encodingFormat': _PARQUET if parquet else 'application/octet-stream',
            'sha256': digest,
        }


def _field(records: str, name: str, description: str) -> dict[str, Any]:
    return {
        '@type': 'cr:Field',
        '@id': f'{records}/{name}',
        'name': name,
        'description': description,
        'dataType': 'sc:Integer' if name in _NUMBERS else 'sc:Text',
        **({'repeated': True} if name == 'steps' else {}),
        'source': {
            'fileSet': {'@id': f'{records}-files'},
            'extract': {'column': name},
        },
    }
