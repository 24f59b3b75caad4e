"""Flags that say how a model generates, for every command with an engine."""

import argparse

NAMES = ('weights', 'cache', 'drafted')  # of `engine.Engine`


def add(parser: argparse.ArgumentParser) -> None:
    """Adds --weights, --cache and --speculate, stored under NAMES."""
    flag = parser.add_argument
    flag(
        '--weights',
        default='float32',
        metavar='KIND',
        help='as they are, or held as bfloat16, int8 or int4: smaller, and rounded',
    )
    flag(
        '--cache',
        default='',
        metavar='KIND',
        help='keys and values as float32, bfloat16 or int8; by default as computed',
    )
    flag(
        '--speculate',
        dest='drafted',
        type=int,
        default=0,
        metavar='N',
        help='tokens guessed from the text so far, for each pass; 0 is off',
    )
