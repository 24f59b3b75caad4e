"""The whole life of a GPT in JAX/Flax: data, tokenizer, training, evaluation, serving.

Importing the package imports nothing else: each stage is a package of its own.
"""

__version__ = '0.1.0'
