"""`python -m gptjax.data`: builds a dataset from a config of configs/data/."""

from gptjax import command


def main() -> None:
    """Builds, and prints a table of what the dataset holds."""
    parser = command.parser('data', 'Build a dataset: shards and a manifest.', True)
    parser.add_argument(
        '--output', required=True, metavar='DIR', help='the folder to build it in'
    )
    flags = command.parse(parser)

    from gptjax.data import build

    options = flags.config.to_dict()
    made = command.splat(build.build, 'config', options, output=flags.output)
    print(made.summary())
    print(f'\n{made.folder / "manifest.json"}')


if __name__ == '__main__':
    command.run(main)
