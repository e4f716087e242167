"""One run of training: epochs, steps, changes of the pattern and checkpoints, and how far it is.

Many ranks may run it together: each does the same with its share of the parts or samples, rank 0 alone changes what the store's
manifest names, and the others then open it anew. A rank that fails leaves, and the others hear of that where they wait for it.

All that is drawn depends on the seed and on counters (epoch, step), so a checkpoint needs no random state but these: a run
that was killed and goes on ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from dasksdnn import config, host
from dasksdnn.engines.exchange import Grid
from dasksdnn.engines.inference import DEFAULT_SHARE, check_threads
from dasksdnn.engines.probing import Probe
from dasksdnn.engines.shares import share_of, whole
from dasksdnn.engines.traffic import gather_traffic
from dasksdnn.engines.trainer import Trainer, prepare
from dasksdnn.engines.transport import Alone, gather, tell
from dasksdnn.errors import InputError, TrainingError
from dasksdnn.events import Listener, Progress
from dasksdnn.network import Array
from dasksdnn.plan.training import (
    Ranks,
    TrainingPlan,
    TrainingSettings,
    largest,
    plan_training,
)
from dasksdnn.sources.datasets import as_dataset, check_features
from dasksdnn.store.checkpoints import commit
from dasksdnn.store.reader import Store, open_store
from dasksdnn.training.evolution import drop_share, target_density
from dasksdnn.training.history import Epoch, History
from dasksdnn.training.initial import draw_anew
from dasksdnn.training.optimizers import clip_factor, with_rate
from dasksdnn.training.options import Every, Options, key_of
from dasksdnn.training.planning import densities, same_counts, settings_alone, sizes_for, taken_over
from dasksdnn.training.rewriting import Evolved, evolve
from dasksdnn.training.stream import SampleStream
from dasksdnn.training.targets import class_targets, value_targets
from dasksdnn.training.together import agreed, commit_together, replace_record, return_to
from dasksdnn.training.watching import Samples, Sums, Watch


@dataclass
class Run:
    """One run, and how far it is."""

    store: Store
    options: Options
    every: Every
    keep: int
    resume: bool
    listener: Listener
    grid: Grid = field(default_factory=lambda: Grid(Alone()))
    to: tuple[int, ...] = ()  # the owner of each part
    step: int = 0
    epoch: int = 0
    position: int = 0
    sums: Sums = field(default_factory=Sums)
    history: list[Epoch] = field(default_factory=list)
    began: int = 0
    best: tuple[float, int, int] = (math.inf, -1, -1)  # loss, epoch, generation
    train: Samples = field(init=False)
    validation: Samples | None = field(init=False)
    plan: TrainingPlan = field(init=False)
    engine: Trainer | None = None
    scratch: Any = None
    changed: int = 0
    changes: list[dict[str, Any]] = field(default_factory=list)
    densities: list[float] = field(default_factory=list)
    stored: int | None = None  # the step whose state the store has, where it is of this run
    saved: float = 0.0
    reserved: int = 0
    held: int = 0
    tally: Any = 0  # of engines that are closed, as is what they sent
    sent: Any = 0
    events: list[Array] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._take_share()
        self.began = self.store.generation
        record = self.store.training
        self.found = record if self.resume and record else None
        if self.found is None:
            self.densities = densities(self.store)
            return
        try:
            self._take_over(self.found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.store.path}: its checkpoint is of another kind of training ({error}): train without resume"
            ) from error

    def _take_over(self, found: dict[str, Any]) -> None:
        """Be where a checkpoint was."""
        self.options.check_same(found["options"], str(self.store.path))
        if found["returned"] and found["options"]["epochs"] != self.options.epochs:
            raise InputError(
                f"{self.store.path}: its training has ended and returned to the best epoch: train without resume to begin "
                "anew from there"
            )
        self.step, self.epoch, self.position = (int(found[n]) for n in ("step", "epoch", "position"))
        self.sums, self.history = Sums(**found["sums"]), [Epoch(**record) for record in found["history"]]
        self.began, self.changed = int(found["began"]), int(found["changed"])
        self.changes, self.densities, best = found["changes"], found["densities"], found["best"]
        self.best = (math.inf if best["loss"] is None else best["loss"], best["epoch"], best["generation"])
        self.stored = self.step

    # -- together with other ranks

    @property
    def leads(self) -> bool:
        """Whether this rank changes the store."""
        return self.grid.transport.rank == 0

    @property
    def ranks(self) -> Ranks:
        """How many there are."""
        return Ranks(self.grid.owners, self.grid.replicas)

    def _take_share(self) -> None:
        self.share = share_of(self.store, self.to, self.grid.owner) if self.grid.owners > 1 else whole(self.store)

    def _lead(self, change: Callable[[], Store]) -> None:
        """Let rank 0 change the store, and all go on with what it has become."""
        if self.leads:
            self.store = change()
        self.store = agreed(self.grid, self.store)
        self._take_share()

    # -- getting ready

    def samples(self, x: Any, y: Any, what: str) -> Samples:
        """Check samples and targets."""
        dataset = as_dataset(x)
        check_features(dataset, self.store.widths[0])
        count, outputs = int(dataset.samples), self.store.widths[-1]
        if count < 1:
            raise InputError(f"{what}: there are no samples to train on")
        if self.options.loss == "softmax":
            targets = class_targets(y, count, outputs)
        else:
            targets = value_targets(y, count, outputs, shares=self.options.loss == "bce")
        stream = SampleStream(
            dataset,
            self.store.dtype,
            self.options.batch_size,
            self.options.seed,
            self.options.shuffle_buffer,
            shuffle=what == "x",
        )
        return Samples(dataset, targets, stream)

    def prepare(self, train: Samples, validation: Samples | None, memory: Any, threads: int | None) -> None:
        """Compile, and choose how to run; or take over how the checkpoint's run was."""
        self.train, self.validation = train, validation
        for what, samples in (("samples", train), ("validation", validation)):
            count = samples.count if samples else 0
            if self.found is not None and self.found[what] != count:
                raise InputError(
                    f"{self.store.path}: its checkpoint was trained with {self.found[what]:,} {what}, not {count:,}: "
                    "give the same to resume, or train without resume to begin anew"
                )
        same_counts(self.grid, train.count, validation.count if validation else 0)
        prepare(self.store, self.listener, exchanging=self.grid.owners > 1 and self.grid.transport.wire is not None)
        named = host.parse_bytes(memory if memory is not None else config.get("memory"))
        reserved = host.resident()
        budget = named or reserved + int(DEFAULT_SHARE * host.memory_available())
        whole_batch = min(self.options.batch_size, train.count)
        batch = -(-whole_batch // self.grid.replicas)
        held = sum(s.stream.nbytes + s.targets.nbytes for s in (train, validation) if s)
        held += 2 * whole_batch * self.store.widths[0] * self.store.dtype.itemsize
        count = check_threads(threads)
        # One plan for all ranks: for the largest share, in the least room.
        every = gather(
            self.grid.transport,
            (sizes_for(self.store, self.share, self.options, self.ranks), reserved, budget - reserved, held),
        )
        sizes, reserved = largest([e[0] for e in every]), max(e[1] for e in every)
        budget, held = reserved + min(e[2] for e in every), max(e[3] for e in every)
        self.reserved, self.held = reserved, held
        if self.found is None or self.found.get("ranks", [1, 1]) != [self.ranks.owners, self.ranks.replicas]:
            self.plan = plan_training(sizes, batch, budget, reserved=reserved, threads=count, input_bytes=held)
            return
        self.plan = taken_over(self.found, sizes, batch, budget, reserved, held, count, self.store)

    def begin(self) -> None:
        """Draw the weights where that was asked for; and let no checkpoint of another run be taken for one of this."""
        how: dict[str, Any] = {"training": self._record(), "keep": self.keep, "protect": {self.began}}
        if self.found is not None:
            return
        init, store = self.options.init, self.store
        if init is not None:
            self._lead(lambda: draw_anew(store, init, self.options.seed, **how))
        elif store.training is not None:
            self._lead(lambda: replace_record(store, **how))
        else:
            return
        self.stored = 0

    def start(self, restore: bool = False) -> None:
        """Get the engine ready."""
        self.engine = Trainer(
            self.store,
            self.plan.settings,
            self.options.rule().moments,
            dropout=self.options.dropout,
            restore=restore or (self.found is not None and self.step > 0),
            scratch=self.scratch,
            listener=self.listener,
            share=self.share,
            grid=self.grid,
        )

    @property
    def trainer(self) -> Trainer:
        """The engine, which is ready."""
        assert self.engine is not None
        return self.engine

    def close(self) -> None:
        """Give the engine's memory and scratch back."""
        if self.engine is not None:
            exchange = self.engine.exchange
            self.tally, self.sent = self.tally + exchange.tally, self.sent + exchange.sent
            self.events += exchange.events()
            self.engine.close()
            self.engine = None

    # -- training

    def go(self) -> History:
        """All epochs that are left."""
        try:
            self.saved = perf_counter()
            while self.epoch < self.options.epochs and not self._impatient():
                if self.options.changes_after(self.epoch) and self.position == 0 and self.changed < self.epoch:
                    self._change_pattern()
                self._one_epoch()
            self._return_to_best()
        except KeyboardInterrupt as stop:
            stop.add_note(
                f"the last checkpoint is generation {self.store.generation}, {self._where()}; --resume goes on from it"
            )
            raise
        peak = max(gather(self.grid.transport, host.peak_resident()))
        plan = {**self.plan.as_dict(), "peak_rss_bytes": peak}
        if self.grid.owners * self.grid.replicas > 1:
            tally = self.tally + self.trainer.exchange.tally
            plan["traffic"] = gather_traffic(self.grid, tally, self.store.dtype.itemsize).as_dict()
        return History(tuple(self.history), plan, tuple(self.changes))

    def _impatient(self) -> bool:
        patience = self.options.patience
        return patience is not None and bool(self.history) and self.epoch - 1 - self.best[1] >= patience

    def _one_epoch(self) -> None:
        batches = -(-self.train.count // self.options.batch_size)
        before, begun = self._traffic(), perf_counter() - self.sums.seconds
        rate = 0.0
        with closing(self.train.stream.batches(self.epoch, self.position)) as stream:
            for batch in stream:
                rate = self._step(batch, batches)
                self.position += 1
                self.sums.seconds = perf_counter() - begun
                done = self.epoch * self.train.count + self.sums.samples
                self.listener(Progress("train", done, self.options.epochs * self.train.count, "samples"))
                if self.position < batches and self._is_due():
                    self._checkpoint()
        self._end_epoch(batches, rate or self._rate(batches), before)

    def _step(self, batch: Any, batches: int) -> float:
        self.step += 1
        rate, options = self._rate(batches), self.options
        seen = Sums()
        watch = Watch(options.loss_function(), self.store.activations[-1], self.train.of(batch.samples), seen)
        clip = None if options.clip_norm is None else partial(clip_factor, most=options.clip_norm)
        rule = with_rate(options.rule(), rate)
        try:
            self.trainer.step(batch.rows, watch, rule, self.step, key_of(options.seed, self.step), clip)
        except FloatingPointError:
            self.step -= 1
            raise self._not_finite(f"batch {self.position + 1} (step {self.step + 1})") from None
        self._add(self.sums, seen)
        return rate

    def _add(self, sums: Sums, seen: Sums) -> None:
        """Add what all ranks have seen."""
        values = np.array([seen.loss, seen.correct, seen.samples], np.float64)
        loss, correct, samples = self.trainer.summed(values).tolist()
        sums.loss += loss
        sums.correct += int(correct)
        sums.samples += int(samples)

    def _traffic(self) -> Array:
        """Bytes read from and written to scratch, and values sent to other owners, of all ranks so far."""
        mine = (*self.trainer.moved, self.trainer.words)
        total: Array = np.array(gather(self.grid.transport, mine), np.int64).sum(axis=0)
        return total

    def _rate(self, batches: int) -> float:
        return self.options.rates().rate(self.options.lr, max(1, self.step), batches, batches * self.options.epochs)

    def _not_finite(self, where: str) -> TrainingError:
        layer = self.trainer.faulty_layer()
        seen = "the loss or its gradient" if layer is None else f"layer {layer}'s outputs"
        return TrainingError(
            f"epoch {self.epoch + 1}, {where}: the loss is NaN or infinite, first seen in {seen}; {self._intact()}"
        )

    def _intact(self) -> str:
        return f"generation {self.store.generation} of {self.store.path}, {self._where()}, is intact: use a lower lr, or clip_norm"

    def _where(self) -> str:
        return f"of step {self.stored}" if self.stored else "from before training"

    def _end_epoch(self, batches: int, rate: float, before: Array) -> None:
        sums, softmax = self.sums, self.options.loss != "mse"
        found = None if self.validation is None else self._look(self.validation)
        read, written, words = (self._traffic() - before).tolist()
        self.history.append(
            Epoch(
                epoch=self.epoch + 1,
                steps=batches,
                samples=sums.samples,
                loss=sums.loss / sums.samples,
                accuracy=sums.correct / sums.samples if softmax else None,
                validation_loss=None if found is None else found.loss / found.samples,
                validation_accuracy=found.correct / found.samples if found and softmax else None,
                learning_rate=rate,
                seconds=sums.seconds,
                bytes_read=read,
                bytes_written=written,
                volume=words,
                edges=self.store.edges,
            )
        )
        self.epoch, self.position, self.sums = self.epoch + 1, 0, Sums()
        loss = self.history[-1].validation_loss if found else self.history[-1].loss
        better = loss is not None and loss < self.best[0]
        due = self._is_due() or self.epoch == self.options.epochs or self._impatient()
        if better and loss is not None:
            due = due or self.options.patience is not None
            self.best = (loss, self.epoch - 1, self.store.generation + 1 if due else -1)
        if due:
            self._checkpoint()

    def _look(self, samples: Samples) -> Sums:
        sums, seen = Sums(), Sums()
        with closing(samples.stream.batches(0)) as stream:
            for batch in stream:
                targets = samples.of(batch.samples)
                watch = Watch(self.options.loss_function(), self.store.activations[-1], targets, seen)
                try:
                    self.trainer.outputs(batch.rows, watch)
                except FloatingPointError:
                    raise self._not_finite("validation") from None
        self._add(sums, seen)
        return sums

    # -- the pattern

    def _change_pattern(self) -> None:
        """Change the pattern in the store, which must hold all that was trained, and load it anew."""
        if self.stored != self.step:
            self._checkpoint()
        self.close()  # its memory is needed
        self.changed = self.epoch
        self._lead(self._evolved)
        self.changes = tell(self.grid.transport, self.changes)
        self.start(restore=True)

    def _evolved(self) -> Store:
        options = self.options
        with ExitStack() as held:
            gradient = None
            if options.evolve == "rigl":
                probe = self._probe()
                held.callback(probe.close)
                gradient = probe.gradient
            store, _ = evolve(
                self.store,
                str(options.evolve),
                epoch=self.epoch,
                seed=options.seed,
                share=drop_share(options.drop, self.epoch, options.last_change + 1),
                target=None if options.target_density is None else self._targets(options.target_density),
                new_communication=options.new_communication,
                gradient=gradient,
                keep=self.keep,
                protect={self.began, self.best[2]},
                training=self._record_with,
                listener=self.listener,
            )
        return store

    def _record_with(self, found: Evolved) -> dict[str, Any]:
        """Where training stands behind a change of the pattern."""
        self.changes.append({"epoch": self.epoch, **found.as_dict()})
        return self._record()

    def _probe(self) -> Probe:
        """Activations and deltas of a batch that the next epoch begins with, from the store's weights, all parts at once."""
        with closing(self.train.stream.batches(self.epoch)) as stream:
            batch = next(stream)
        watch = Watch(self.options.loss_function(), self.store.activations[-1], self.train.of(batch.samples), Sums())
        with closing(
            Trainer(self.store, self._settings_alone(), scratch=self.scratch, listener=self.listener)
        ) as alone:
            return alone.probe(batch.rows, watch)

    def _settings_alone(self) -> TrainingSettings:
        """Settings with which this rank can hold, or stream, all parts."""
        if self.ranks.size == 1:
            return self.plan.settings
        batch = min(self.options.batch_size, self.train.count)
        return settings_alone(self.store, self.options, batch, self.plan, self.reserved, self.held)

    def _targets(self, end: float) -> list[float]:
        """The density of each layer behind this change: the last layer's stays."""
        options = self.options
        *inner, last = self.densities
        first, final = options.evolve_every, options.last_change // options.evolve_every * options.evolve_every
        each = [target_density(d, end, self.epoch, first - 1, final) if d > end else d for d in inner]
        return [density or 1.0 for density in (*each, last)]  # a layer without weights has none to lose

    # -- checkpoints

    def _is_due(self) -> bool:
        count, unit = self.every.count, self.every.unit
        if unit == "seconds":  # by one clock
            return bool(tell(self.grid.transport, perf_counter() - self.saved >= count))
        return self.step % count == 0 if unit == "steps" else self.position == 0 and self.epoch % count == 0

    def _record(self, returned: bool = False) -> dict[str, Any]:
        loss, epoch, generation = self.best
        return {
            "options": self.options.as_dict(),
            "plan": self.plan.settings.as_dict(),
            "ranks": [self.ranks.owners, self.ranks.replicas],
            "step": self.step,
            "epoch": self.epoch,
            "position": self.position,
            "sums": {
                "loss": self.sums.loss,
                "correct": self.sums.correct,
                "samples": self.sums.samples,
                "seconds": self.sums.seconds,
            },
            "samples": self.train.count,
            "validation": self.validation.count if self.validation else 0,
            "returned": returned,
            "began": self.began,
            "changed": self.changed,
            "changes": self.changes,
            "densities": self.densities,
            "best": {"loss": loss if math.isfinite(loss) else None, "epoch": epoch, "generation": generation},
            "history": History(tuple(self.history)).as_dict()["epochs"],
        }

    def _checkpoint(self) -> None:
        extra = [f"{kind}_{moment}" for moment in self.options.rule().moments for kind in ("data", "bias")]
        how: dict[str, Any] = {"training": self._record(), "keep": self.keep, "protect": {self.began, self.best[2]}}
        try:
            if self.ranks.size == 1:
                self.store = commit(self.store, self.trainer.values, extra=extra, **how)
            else:
                self.trainer.gather_moments()
                self.store = commit_together(self.store, self.grid, self.share, self.trainer.values, extra, **how)
        except InputError as error:  # of a value that is not finite
            raise TrainingError(f"epoch {max(1, self.epoch)}, step {self.step}: {error}; {self._intact()}") from error
        self.saved, self.stored = perf_counter(), self.step

    def _return_to_best(self) -> None:
        """Make the best epoch's weights those of the store again, where training was to stop early."""
        _, _, generation = self.best
        if self.options.patience is None or generation < 0 or generation == self.store.generation:
            return
        best = open_store(self.store.path, generation)
        if best.manifest.windows == self.store.manifest.windows:
            return
        self._lead(
            lambda: return_to(
                self.store, best, training=self._record(returned=True), keep=self.keep, protect={self.began, generation}
            )
        )
