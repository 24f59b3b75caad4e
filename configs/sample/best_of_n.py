r"""Best-of-n and rejection sampling: the best answers of a model as data to train on.

    python -m gptjax.train sample --config=configs/sample/best_of_n.py:reward_model \
        --config.workdir=runs/sft --config.data.path=runs/sft/data \
        --config.rewards.reward_model.workdir=runs/reward --output=data/best.jsonl
    python -m gptjax.train sample --config=configs/sample/best_of_n.py:answer \
        --config.keep.best=0 --config.keep.above=0.5 --output=data/right.jsonl

The argument is the reward: reward_model, classifier, answer (numbers as in GSM8K) or
judge (any OpenAI-compatible endpoint, python -m gptjax.serve among others). A tuple of
several is added up with their weights. keep.best=1 is best-of-n; keep.best=0 with
keep.above is rejection sampling: all whose total is higher. Every sample stands in
OUTPUT.samples.jsonl with its rewards: the same command asks nothing twice, also with
another `keep`. Train on the output as the corpus `chat`.
"""

from ml_collections import ConfigDict

from gptjax import command


def get_config(reward: str = 'reward_model') -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = 'runs/sft'
    # A built dataset with the tokenizer of the workdir; its answers are references.
    config.data = dict(
        path='runs/sft/data', split='train', prompts=1_000, prompt_tokens=256
    )
    config.sampling = dict(n=8, max_tokens=256, temperature=1.0, top_k=0, top_p=1.0)
    config.keep = dict(best=1, above=None)
    rewards = {
        'reward_model': dict(workdir='runs/reward', normalise=False),
        'classifier': dict(
            workdir='runs/classes', label='1', score='probability', prompt=False
        ),
        'answer': dict(strict=False),
        'judge': dict(
            question=(
                'How helpful is the answer to the question, from 1 to 10?\n\n'
                'Question:\n{prompt}\n\nAnswer:\n{completion}\n\n'
                'End with "Score: " and the number.'
            ),
            pattern=r'(?i)score:?\s*(?P<score>\d+)',
            least=1.0,
            most=10.0,
            seed=0,
            answers='data/judge.answers.jsonl',
            endpoint=dict(
                base_url='http://127.0.0.1:8000/v1',
                model='gptjax',
                key_variable=None,
                temperature=0.0,
                max_tokens=256,
                timeout=120.0,
                retries=5,
                wait=1.0,
                at_once=4,
            ),
        ),
    }
    options = command.lookup(rewards, reward, 'reward of configs/sample/best_of_n.py')
    config.rewards = (dict(name=reward, weight=1.0, **options),)
    return config
