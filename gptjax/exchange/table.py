"""The families that transformers has a class for, and why the others have none."""

from gptjax.exchange.families import (
    bart,
    bert,
    family,
    gpt2,
    llama,
    marian,
    mistral,
    mixtral,
    qwen2,
    qwen3,
    roberta,
)

FAMILIES: dict[str, family.Family] = {
    'gpt2': gpt2.FAMILY,
    'llama': llama.FAMILY,
    'mistral': mistral.FAMILY,
    'qwen2': qwen2.FAMILY,
    'qwen3': qwen3.FAMILY,
    'mixtral': mixtral.FAMILY,
    'bert': bert.FAMILY,
    'roberta': roberta.FAMILY,
    'bart': bart.FAMILY,
    'marian': marian.FAMILY,
}

# Families of ours that no class of transformers computes.
ALONE = {
    'gpt3': 'its layers look at all tokens and at a band of them in turns, and GPT-2 '
    'of transformers has no bands',
    'modern': 'no class has squared ReLU, normalised queries and keys and a soft cap '
    'of logits together',
    'transformer': 'the model of the paper has attention without biases, and Marian of '
    'transformers, the nearest, has them; train the family marian instead',
}
