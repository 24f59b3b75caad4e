"""Published chat templates in transformers: equal ids, equal masks, or a refusal."""

import json
import os
from pathlib import Path

from golden import chat_cases, fine_tuning, make_chat
import pytest

from gptjax import command
from gptjax.text import chat, huggingface

FORMATS = {name: theirs for name, (theirs, *_) in chat_cases.FORMATS.items()}
TALK = [
    {'role': 'user', 'content': 'Hi'},
    {'role': 'assistant', 'content': 'Hello'},
    {'role': 'user', 'content': 'Good'},
    {'role': 'assistant', 'content': 'Bye'},
]


def real(count):
    """Conversations of two turns out of instructions that people wrote."""
    path = Path(os.environ['GPTJAX_DATA']) / 'sft' / 'dolly_hhrlhf_train_small.jsonl'
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = []
    for first, second in zip(lines[::10], lines[1::10], strict=True):
        found.append([])
        for one in (first, second):
            asked = one['prompt'].split('### Instruction:\n')[-1].split('\n\n###')[0]
            found[-1].append({'role': 'user', 'content': asked})
            found[-1].append({'role': 'assistant', 'content': one['response']})
    return found[:count]


def both(tmp_path, name, template):
    """(transformers' tokenizer, ours) of a format with a template."""
    files = chat_cases.tokenizer_files(name, template)
    return make_chat.tokenizer(name, tmp_path, template), huggingface.HuggingFace(files)


@pytest.mark.parametrize('name', FORMATS)
def test_published_templates_give_their_ids_and_masks(name, tmp_path, measured):
    theirs, ours = both(tmp_path, name, make_chat.published(name))
    talks = [(talk, None) for talk in real(100)] + chat_cases.conversations(name)
    equal = 0
    for messages, tools in talks:
        ids, mask = make_chat.encode(theirs, messages, tools)
        talk = [{**messages[0], 'tools': tools}, *messages[1:]]
        equal += chat.encode(ours, talk) == (ids, mask)
        prompt = theirs.apply_chat_template(
            messages[:-1], tools=tools, add_generation_prompt=True, return_dict=False
        )
        assert chat.prompt(ours, talk[:-1]) == prompt
    measured(
        f'{FORMATS[name]}: ids and masks of {equal} of {len(talks)} chats equal',
        chats_equal=equal,
        chats=len(talks),
    )
    assert equal == len(talks) == 200


PLAIN = ('qwen3_instruct_2507', 'llama3', 'gemma', 'qwen2_5')


@pytest.mark.parametrize(('name', 'plain'), [*zip(FORMATS, PLAIN, strict=False)])
def test_without_marks_the_answer_and_its_end_are_learned(name, plain, tmp_path):
    """By prefixes: what the marks cover, without white space before and after."""
    template = (make_chat.TEMPLATES / f'{plain}.jinja').read_text('utf-8')
    assert 'generation %}' not in template
    theirs, ours = both(tmp_path, name, make_chat.published(name))
    prefixed = huggingface.HuggingFace(chat_cases.tokenizer_files(name, template))
    for messages in real(30):
        ids, mask = make_chat.encode(theirs, messages, None)
        found, weights = chat.encode(prefixed, messages)
        assert found == ids
        left = [t for t, m, w in zip(ids, mask, weights, strict=True) if m and not w]
        assert not ours.decode(left).strip()
        assert not set(left) & set(ours.ends)
        assert all(m for m, w in zip(mask, weights, strict=True) if w)


def test_thoughts_that_a_template_drops_later_are_told(tmp_path):
    """Qwen3's own template writes the last answer in another way than those before."""
    template = (make_chat.TEMPLATES / 'qwen3.jinja').read_text('utf-8')
    made = huggingface.HuggingFace(chat_cases.tokenizer_files('qwen3', template))
    assert any(chat.encode(made, TALK[:2])[1])
    with pytest.raises(command.UserError, match=r'messages\[1\].*prefix-preserving'):
        chat.encode(made, TALK)


def test_templates_of_trl_are_read_or_refused_with_a_reason(tmp_path, measured):
    """Every one of its templates for training, with the control tokens that it has."""
    read, refused = [], {}
    for path in sorted(make_chat.TEMPLATES.glob('*_training.jinja')):
        template = path.read_text('utf-8')
        theirs, ours = both(tmp_path / path.stem, 'chatml', template)
        try:
            found = chat.encode(ours, TALK)
        except command.UserError as error:
            refused[path.stem] = str(error)
            continue
        ids, mask = make_chat.encode(theirs, TALK, None)
        assert found == (ids, mask), path.stem
        read.append(path.stem)
    assert len(read) >= 8
    # They end answers with other tokens than ChatML's, or do not prompt as they go on.
    for why in refused.values():
        assert 'messages[' in why
    measured(
        f'TRL: {len(read)} templates read, {len(refused)} refused: {sorted(refused)}'
    )


def test_fine_tuning_loses_what_trl_does(tmp_path, measured):
    theirs, ours = both(tmp_path / 'qwen', 'qwen2.5', make_chat.published('qwen2.5'))
    talks = [talk for talk, tools in chat_cases.conversations('qwen2.5') if not tools]
    found = make_chat.chosen([make_chat.encode(theirs, talk, None) for talk in talks])
    assert len(found) > 3
    truth = make_chat.sft(found, tmp_path / 'model')
    encoded = [chat.encode(ours, talk) for talk in talks]
    rows = fine_tuning.rows_of(tmp_path, make_chat.chosen(encoded))
    batch = fine_tuning.read(rows, len(found))
    loss, _ = fine_tuning.losses(tmp_path / 'model')(batch)
    difference = abs(float(loss) - truth['loss'])
    measured(f'loss of fine-tuning: {difference:.1e} from TRL', sft_loss=difference)
    assert difference < 1e-5
