"""Something is to happen at the n-th moment of a piece of work: before or after any of some functions is called."""

from __future__ import annotations


class Moments:
    """Subclasses say in `tick` what happens at a moment."""

    def tick(self):
        raise NotImplementedError

    def hook(self, function):
        """The same function, with a moment before and one behind it."""

        def called(*arguments, **options):
            self.tick()
            result = function(*arguments, **options)
            self.tick()
            return result

        return called
