"""A clock for tests of what takes hours."""


class Clock:
    """Time that passes when it is told to; `wall` may be set."""

    def __init__(self):
        self.now, self.wall = 50.0, 1000.0

    def monotonic(self):
        return self.now

    def time(self):
        return self.wall

    def sleep(self, seconds):
        self.now += seconds
        self.wall += seconds
