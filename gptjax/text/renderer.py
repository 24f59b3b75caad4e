"""A program of its own: renders Jinja templates, one JSON request and answer a line.

It is started by `template.py` with no environment, imports nothing of ours, may use
`MEMORY` bytes, and dies by SIGPROF when a template takes more than its seconds of
processor time: whatever a hostile template does, it does to this process.
"""

import datetime
import functools
import json
import resource
import signal
import sys
from typing import ClassVar

import jinja2
from jinja2 import ext, nodes, sandbox

MEMORY = 512 << 20


class Generation(ext.Extension):
    """`{% generation %}`: what the assistant says, set between the request's marks."""

    tags: ClassVar[set[str]] = {'generation'}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(['name:endgeneration'], drop_needle=True)
        call = self.call_method('_marked')
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _marked(self, caller):
        begin, end = self.environment.marks
        return begin + caller() + end


@functools.lru_cache(maxsize=1)
def compiled(source, marks):
    """The template, as templates of chats are written: transformers' settings, names.

    One is kept, so that nothing of a hostile one stays when another comes.
    """
    made = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, ext.loopcontrols],
    )
    made.marks = marks
    made.filters['tojson'] = _to_json
    made.globals['raise_exception'] = _raise
    made.globals['strftime_now'] = lambda form: datetime.datetime.now().strftime(form)
    return made.from_string(source)


def render(request):
    """{'text': ...} or {'fault': ...} for a request."""
    try:
        template = compiled(request['template'], tuple(request['marks']))
        parts, size = [], 0
        for part in template.generate(**request['names']):
            parts.append(part)
            size += len(part)
            if size > request['limit']:
                return {'fault': f'it writes more than {request["limit"]} characters'}
        text = ''.join(parts)
        text.encode()
        return {'text': text}
    except MemoryError:
        return {'fault': f'it takes more than {MEMORY >> 20} MiB of memory'}
    except RecursionError:
        return {'fault': 'it recurses without end'}
    except jinja2.TemplateSyntaxError as error:
        return {'fault': f'line {error.lineno}: {error.message}'}
    except Exception as error:
        return {'fault': f'{type(error).__name__}: {error}'[:1000]}


def _raise(message):
    raise jinja2.TemplateError(message)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def main():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, request['seconds'])
        answer = json.dumps(render(request)).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(answer + b'\n')
        sys.stdout.buffer.flush()


if __name__ == '__main__':
    main()
