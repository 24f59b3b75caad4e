r"""What llama2.c itself prints for stories260K, at temperature 0.

    git clone https://github.com/karpathy/llama2.c
    gcc -O2 -o run llama2.c/run.c -lm
    python tests/golden/make_stories260k.py ./run GPTJAX_DATA/stories260K

`steps` are the tokens after the first, those of the prompt included.
"""

import json
from pathlib import Path
import subprocess
import sys

COMMIT = '350e04fe35433e6d2941dce5a1f53308f87058eb'  # of llama2.c
CASES = (
    ('', 256),
    ('', 511),
    ('Once upon a time', 256),
    ('Tom and his dog', 200),
    ('"No," said the cat. ', 200),
    ('One day, a little bird\nwanted', 200),
    ('Zebra 42: {x += 1}', 100),
    ('Sue', 64),
)


def main(run, folder):
    texts = []
    for prompt, steps in CASES:
        command = [run, f'{folder}/stories260K.bin', '-z', f'{folder}/tok512.bin']
        command += ['-t', '0', '-n', str(steps), *(['-i', prompt] if prompt else [])]
        done = subprocess.run(command, capture_output=True, check=True)
        text = done.stdout.decode().removesuffix('\n')
        texts.append({'prompt': prompt, 'steps': steps, 'text': text})
    golden = {
        'llama2.c': COMMIT,
        'command': 'run stories260K.bin -z tok512.bin -t 0 -n STEPS [-i PROMPT]',
        'printed': texts,
    }
    path = Path(__file__).with_name('stories260k.json')
    path.write_text(json.dumps(golden, indent=1) + '\n')


if __name__ == '__main__':
    main(*sys.argv[1:])
