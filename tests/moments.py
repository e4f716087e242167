"""Something is to happen at the n-th moment of a piece of work: before or after any of some functions is called."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Moments(ABC):
    """Subclasses say in `tick` what happens at a moment."""

    @abstractmethod
    def tick(self):
        """Do what is to happen."""

    def hook(self, function):
        """The same function, with a moment before and one behind it."""

        def called(*arguments, **options):
            self.tick()
            result = function(*arguments, **options)
            self.tick()
            return result

        return called
