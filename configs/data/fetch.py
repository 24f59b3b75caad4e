r"""Pages of the web, as their sites allow: a list of addresses becomes a WARC file.

    python -m gptjax.data fetch --config=configs/data/fetch.py --config.urls=urls.txt \
        --config.agent='name/1.0 (+https://example.org/bot)' --output=pages.warc.gz

urls.txt has an address a line; 'sitemap: ADDRESS' stands for all pages of a sitemap.
For a later visit name the file of this one, --config.previous=pages.warc.gz: pages that
have not changed are not sent again.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.urls = ''
    config.agent = ''  # who asks, and where to complain
    # A site that forbids one of these in robots.txt is not asked by us either.
    config.respect = ('CCBot', 'GPTBot', 'ClaudeBot', 'Google-Extended')
    config.delay = 2.0  # least seconds between two requests to a host
    config.timeout = 20.0  # seconds, of one read
    config.seconds = 60.0  # of a whole response
    config.most_bytes = 2**23
    config.most_urls = 100_000
    config.private = False  # addresses as 127.0.0.1 and 10.0.0.1
    config.previous = None
    return config
