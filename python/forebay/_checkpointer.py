"""The checkpointer: training state and data position, committed together."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from . import _forebay
from ._errors import InvalidError
from ._feed import LOCAL_BUDGET, Feed, open_engine, parse_dataset
from ._fill import Fills
from ._fit import Fit
from ._fork import fork_together
from ._group import Group, find_group
from ._interval import Interval, Policy, parse_seconds
from ._overlap import Overlap
from ._plan import Forms, Plan, Seen
from ._random import RandomState
from ._restore import Reader, give_back
from ._settings import save_settings
from ._share import Shares
from ._stored import VERSION, read_metadata, read_state
from ._tensors import stored
from ._tree import Path, has_state, is_tensor, show
from ._units import show_bytes

if TYPE_CHECKING:
    from typing_extensions import Self

_NOTHING, _SAVE, _STOP = 0, 1, 2
#: The random state among the parts of the state, whose names do not start so.
_RANDOM = "$random"


class Saved(TypedDict):
    """What became of one save on this rank; times in seconds since it was captured."""

    step: int
    bytes: int
    pause_seconds: float
    waited_seconds: float
    stage_seconds: float
    durable_seconds: float
    committed_unix_ms: int
    removed: list[int]


class Checkpointer:
    """Saves and restores a training run: weights, optimizer, schedule, random state, data position.

    ::

        checkpointer = forebay.Checkpointer("s3://lake", run="gpt-small", local="/nvme", interval=500,
            state={"model": model, "optimizer": optimizer, "scheduler": scheduler, "feed": feed})
        start = checkpointer.resume()                 # steps taken before, or 0
        for step, batch in enumerate(feed, start):
            ...
            checkpointer.step(step, metrics={"loss": loss})
        checkpointer.close()                          # waits until all is durable

    A save copies the state into memory of the engine and returns; writing it to this node, bringing
    it to the lake and committing it go on in the background. What goes wrong there is raised by the
    next ``step`` or ``close``. A step exists when all ranks' parts are in the lake and one small
    object names them, or not at all. Killed at any point, the next start finishes what was
    complete on this node and goes on from the newest committed step.

    Under ``torch.distributed`` every rank makes one, with the same arguments, and calls the same
    methods at the same steps. What all ranks hold alike is written once; ``DTensor`` (FSDP2, tensor
    parallel) as each rank's part. Any other number of ranks reads what it needs of it.

    Nothing is pickled. A value that cannot be stored is refused by its name when the checkpointer is
    made. One thread at a time may use it.

    Parameters
    ----------
    lake, local, local_budget
        As for :func:`forebay.feed`.
    run
        The run's name. One job at a time writes a run.
    state
        Names to what is saved: objects with ``state_dict`` and ``load_state_dict``, and dicts and
        lists of those, of tensors, arrays, numbers, texts and bytes, which are restored in place.
        Wrappers of ``DistributedDataParallel`` and ``torch.compile`` are looked through, so the names
        are those of the model.
    interval
        When ``step`` saves: every so many steps (``500``), every so long (``"10min"``), ``"auto"``
        (so that saving and what a crash throws away cost least together, from what saves cost and
        ``mtbf``), or ``None``: only when ``save`` is called.
    mtbf
        The mean time between failures that ``"auto"`` reckons with; ``None``: between the launches of
        the run so far, and a day until there were three.
    keep_last, keep_every
        The newest so many checkpoints are kept, and those of steps divisible by ``keep_every``; the
        others are removed when a newer one is committed. ``keep_last=0`` keeps all.
    keep_best, keep_best_count
        The checkpoints of the best values of a metric that :meth:`step` was given stay too:
        ``"loss"`` or ``"loss:min"`` for the lowest, ``"accuracy:max"`` for the highest.
    fork
        ``(run, step)`` of another run: a run without checkpoints goes on from there, and
        :meth:`resume` gives that state. Started again it goes on from its own newest; a run that has
        checkpoints from elsewhere is refused. See :func:`forebay.fork_run`.
    incremental
        A tensor that did not change since the save before is not written again but referred to where
        it lies, in an earlier step's file. Such a file stays for as long as a checkpoint needs it,
        also when its own step is removed.
    compress
        Tensors are stored in less room, without loss, where that gains something: of weights and
        moments about a quarter. It costs processor time in the background, and in a restore that is
        not from memory. Each tensor is verified as ever.
    overlap
        Parameters and optimizer state are copied while the next forward and backward pass run; only the
        optimizer's step waits until that is done, on a GPU without the host. What changes them otherwise
        meanwhile is noticed, and the save dropped with a warning, unless it goes through ``.data``.
    random_state
        Saves and restores each rank's generators (Python, numpy, torch, CUDA). Ranks that did not
        exist when the checkpoint was made keep theirs.
    signals
        After SIGTERM the next ``step`` saves, waits until that is durable and raises
        ``SystemExit``; a second SIGTERM before that ends the process. After SIGUSR1 ``step`` saves, as
        it does whatever this says when ``forebay checkpoint now`` asks on this node.
        Only in the main thread, and only where nothing else handles these signals.
    memory
        The most memory that a copy of this rank's state may take, in bytes or as a text like ``"20GB"``;
        ``None``: what the node has. A state that needs more is written to this node, and digested, while
        ``step`` waits; ``memory=0`` always does so.
    threads
        Threads that copy, digest and read.

    Raises
    ------
    forebay.InvalidError
        A setting cannot work, or a value cannot be stored.
    forebay.UnavailableError, forebay.FullError, …
        A tier failed while what a killed run left on this node was finished.
    """

    def __init__(
        self,
        lake: str | os.PathLike[str],
        run: str,
        state: Mapping[str, Any],
        *,
        local: str | os.PathLike[str] | None = None,
        local_budget: int | str = LOCAL_BUDGET,
        interval: Interval = "auto",
        mtbf: str | timedelta | float | None = None,
        keep_last: int = 3,
        keep_every: int = 0,
        keep_best: str | None = None,
        keep_best_count: int = 1,
        fork: tuple[str, int | None] | None = None,
        incremental: bool = True,
        compress: bool = False,
        overlap: bool = True,
        random_state: bool = True,
        signals: bool = True,
        memory: int | str | None = None,
        threads: int = 2,
    ) -> None:
        self.run = run
        self._policy = Policy(interval, mtbf)
        self._state = dict(state)
        self._random = RandomState() if random_state else None
        _check_restorable(self._state)
        self._plan = Plan()
        self._planned: tuple[Forms, list[int], _forebay.StatePlan] | None = None
        seen = self._look()
        self._group: Group = find_group()
        self._shares = Shares(self._group)
        self._engine = open_engine(lake, local, local_budget)
        if fork is not None:
            fork_together(self._group, self._engine, fork, run)
        settings: dict[str, Any] = {
            "keep_last": keep_last,
            "keep_every": keep_every,
            "incremental": incremental,
        }
        settings |= save_settings(compress=compress, memory=memory, threads=threads)
        if keep_best is not None:
            settings["keep_best"] = _rule(keep_best, keep_best_count)
        self._native = self._engine.checkpointer(
            run=run,
            rank=self._group.rank,
            world_size=self._group.world_size,
            launch=self._group.launch,
            settings=json.dumps(settings),
            dataset=_dataset(self._state),
        )
        if self._policy.is_auto:
            self._policy.learn_launches([at / 1e3 for at in self._engine.launches(run)], time.time())
        # A script that ends without `close` still waits for what it saved.
        self._ending = weakref.finalize(self, settle, self._native)
        self._overlap = Overlap(self._state, overlap)
        self._fills = Fills()
        self._fills.prepare(self._native, seen.values)
        self._is_expected = False
        self._is_told = memory is not None
        if self._group.world_size == 1:
            self._native.expect(sum(seen.forms.bytes))
        self._saved_at = time.monotonic()
        self._saved_step: int | None = None
        #: The step whose restore failed half-way.
        self._torn: int | None = None
        self._agreed: Any = None
        self._signals = _Signals() if signals else None

    def resume(self, step: int | None = None, *, strict: bool = True) -> int:
        """Restores the newest committed step, or the one given; returns the steps taken, or 0.

        All ranks call it; rank 0 chooses the step. Tensors that are there already (parameters, buffers,
        an optimizer's state, those in dicts and lists) keep their memory: on the CPU what is stored is
        read straight into it. ``load_state_dict`` is called all the same.

        With ``strict`` a model that does not fit is refused, naming every difference, before anything
        is overwritten; without, ``load_state_dict`` gets what both have, what the checkpoint has no
        state for stays as it is, and a warning says what is left out.

        Every tensor is verified before this returns. An error while it reads (damage, a tier that
        cannot be reached, an interrupt), or one that a ``load_state_dict`` raises, leaves the state
        partly overwritten: it must not be trained on, and :meth:`step` and :meth:`save` refuse it.
        Resume again, from the step that the error names, which overwrites all of it.

        Raises
        ------
        forebay.InvalidError
            The checkpoint does not fit; nothing was overwritten.
        forebay.CorruptError
            The checkpoint is damaged: the message names the object and an older step that is whole.
        forebay.NotFoundError
            There is no such step.
        """
        self._overlap.settle()
        chosen = self._choose(step)
        if chosen is None:
            return 0
        checkpoint = self._engine.checkpoint(self.run, chosen)
        assert checkpoint is not None, "a step that was asked for is there or raises"
        world_size = checkpoint.world_size()
        theirs = self._group.rank if self._group.world_size == world_size else 0
        stored = read_state(checkpoint, self.run, theirs)
        own = None
        if self._random is not None and self._group.rank < world_size:
            own = read_metadata(checkpoint.metadata(self._group.rank), self.run, chosen).get("random")
        reader, fit = Reader(checkpoint), Fit()
        targets = self._targets(stored, chosen, strict)
        for name, target in targets.items():
            fit.add(target, reader.describe(stored[name], (name,)), (name,))
        fit.settle()
        if fit.differs and strict:
            raise InvalidError("the checkpoint does not fit the model:\n" + "\n".join(fit.differs))
        if fit.differs:
            warnings.warn(
                "left out of the restored state:\n" + "\n".join(fit.differs), stacklevel=2
            )
        self._torn = chosen
        # One object after the other, so that no more than one is in memory twice.
        for name, target in targets.items():
            value = reader.read(stored[name], (name,), fit.place)
            give_back(target, value, (name,), fit)
        if self._random is not None and own is not None:
            self._random.load_state_dict(reader.read(own))
        self._torn = None
        self._native.go_on_from(checkpoint)
        self._saved_step, self._saved_at = chosen, time.monotonic()
        return chosen

    def _choose(self, step: int | None) -> int | None:
        """The step that all ranks go on from."""
        # Every rank has finished what it found staged: only then is the newest step decided.
        self._group.gather(b"")
        said = b""
        if self._group.rank == 0:
            self._native.claim()
            newest = self._engine.checkpoint(self.run, step)
            said = b"" if newest is None else str(newest.step()).encode()
        chosen = self._group.gather(said)[0]
        return int(chosen) if chosen else None

    def _targets(self, stored: Mapping[str, Any], step: int, strict: bool) -> dict[str, Any]:
        """What is restored, by its name."""
        for name in [name for name in self._state if name not in stored]:
            said = (
                f"step {step} of run {self.run} has no state called {name!r}; it has "
                f"{', '.join(sorted(stored))}"
            )
            if strict:
                raise InvalidError(said)
            warnings.warn(f"{said}: {name!r} stays as it is", stacklevel=3)
        return {name: _unwrapped(one) for name, one in self._state.items() if name in stored}

    def _refuse_torn(self) -> None:
        if self._torn is not None:
            raise InvalidError(
                f"restoring step {self._torn} of run {self.run} failed and left the state partly "
                "overwritten: resume again before anything is trained or saved"
            )

    def step(self, step: int, metrics: Mapping[str, Any] | None = None) -> bool:
        """Says that the step of this number (from 0) was taken; saves if that is due.

        Returns whether it saved. ``metrics`` (numbers, or tensors of one) are kept with a checkpoint.
        Raises what went wrong in the background since the last call.
        """
        self._refuse_torn()
        self._learn()
        taken = step + 1
        wish = self._wish(taken)
        if self._overlap.take_broken(alone=self._group.world_size == 1):
            wish = max(wish, _SAVE)
        if wish == _NOTHING:
            self._expect()
            return False
        if self._saved_step != taken:
            self._save(taken, metrics, overlapped=wish != _STOP)
        if wish == _STOP:
            self.close()
            raise SystemExit(128 + signal.SIGTERM)
        return True

    def _wish(self, taken: int) -> int:
        """What all ranks do after this step."""
        asked = _NOTHING if self._signals is None else self._signals.take()
        if self._native.asked():
            asked = max(asked, _SAVE)
        seconds = time.monotonic() - self._saved_at
        due = self._policy.is_due(taken, seconds)
        if self._group.world_size == 1:
            return max(asked, _SAVE if due else _NOTHING)
        # Clocks and signals differ between ranks. What one of them wishes is asked for now and
        # done by all after the next step, so that nobody waits for the answer.
        agreed: int = _NOTHING if self._agreed is None else self._agreed()
        by_clock = due and self._policy.needs_agreement and agreed == _NOTHING
        self._agreed = self._group.highest(max(asked, _SAVE if by_clock else _NOTHING))
        return max(agreed, _SAVE if due and not self._policy.needs_agreement else _NOTHING)

    def save(self, steps_taken: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Captures the state after ``steps_taken`` steps, whatever the interval says.

        Returns when the state may change again; it is not durable then. All ranks call it.
        """
        self._refuse_torn()
        self._save(steps_taken, metrics, overlapped=False)

    def _save(
        self, steps_taken: int, metrics: Mapping[str, Any] | None, *, overlapped: bool
    ) -> None:
        self._overlap.settle()
        seen = self._look()
        metadata = _metadata(seen.texts, metrics or {})
        ours = self._shares.ours(seen.forms)
        later = self._overlap.later(seen, ours) if overlapped else []
        is_later, is_filled = set(later), seen.forms.is_filled
        soon = [number for number in ours if is_filled[number] and number not in is_later]
        now = [number for number in ours if not (is_filled[number] or number in is_later)]
        later_filled = [number for number in later if is_filled[number]]
        later = [number for number in later if not is_filled[number]]
        filled = soon + later_filled
        plan = self._file(seen.forms, now + later + filled)
        if filled:
            self._fills.prepare(self._native, seen.values)
            if not self._native.holds(plan):
                # They come over one after the other, all at once, and are written from where they lie.
                now, later, later_filled, filled = now + later + filled, [], [], []
        held, addresses = _lend(seen, now)
        addresses += [seen.addresses[number] for number in later]
        said, copying = self._native.save(
            steps_taken, plan, addresses, metadata, len(later), len(filled)
        )
        del held
        filling = None
        if filled:
            values = seen.values
            filling = self._fills.begin(
                copying,
                [values[number] for number in soon],
                [values[number] for number in later_filled],
            )
        self._is_expected = True
        self._tell(json.loads(said))
        names = seen.forms.names
        kept = {names[number]: seen.values[number] for number in later + later_filled}
        self._overlap.watch(copying, kept, filling, is_on_host=bool(later))
        self._saved_step, self._saved_at = steps_taken, time.monotonic()

    def _expect(self) -> None:
        """Has memory made ready for the first save, once the optimizer's first step has made its state."""
        if not self._is_expected:
            self._is_expected = True
            forms = self._look().forms
            self._native.expect(sum(forms.bytes[number] for number in self._shares.ours(forms)))

    def _tell(self, said: dict[str, Any]) -> None:
        """Warns once when no memory held a copy, and when that could not be locked."""
        self._fills.warn_of_refusal()
        if said["streamed"] and not self._is_told:
            self._is_told = True
            warnings.warn(
                f"no memory holds a copy of the {show_bytes(said['bytes'])} of this rank's state: each save "
                "is written to this node while training waits; memory=0 says that this is meant",
                stacklevel=4,
            )

    def _look(self) -> Seen:
        """The state as it is now."""
        parts: dict[str, tuple[Path, Any]] = {
            name: ((name,), _unwrapped(one)) for name, one in self._state.items()
        }
        if self._random is not None:
            parts[_RANDOM] = (("random", f"rank-{_rank_of(self)}"), self._random)
        return self._plan.look(parts)

    def _file(self, forms: Forms, numbers: list[int]) -> _forebay.StatePlan:
        """What the engine needs to know of these tensors, in their order; the same as long as they are."""
        if self._planned is None or self._planned[:2] != (forms, numbers):
            given = [(*forms.described[number], forms.bytes[number]) for number in numbers]
            self._planned = (forms, numbers, _forebay.StatePlan(given))
        return self._planned[2]

    def _learn(self) -> None:
        for report in self._reports(self._native.finished()):
            self._policy.learn(report["pause_seconds"], report["durable_seconds"])

    def _reports(self, said: str) -> list[Saved]:
        reports: list[Saved] = json.loads(said)
        return reports

    def wait(self) -> list[Saved]:
        """Waits until every save is committed; returns what became of those since the last call.

        Raises what went wrong; a save that could not reach the lake stays on this node, and the next
        call tries it again.
        """
        self._overlap.settle()
        return self._reports(self._native.wait())

    def sweep(self, older_than: str | timedelta | float = "24h") -> list[str]:
        """Deletes what saves that were never committed left in the lake; returns the objects' keys.

        Of steps before the newest committed one, what was written longer ago than ``older_than``: a
        slow rank may still complete a younger one. A new checkpoint does the same after a day.
        """
        return self._engine.sweep_checkpoints(self.run, parse_seconds("older_than", older_than))

    def recovered(self) -> list[dict[str, Any]]:
        """What opening found on this node from a killed run, and what became of it."""
        found: list[dict[str, Any]] = json.loads(self._native.recovered())
        return found

    def close(self) -> None:
        """Waits until every save is durable, and raises what went wrong. Closing twice is no error."""
        if not self._ending.alive:
            return
        self.wait()
        if self._agreed is not None:
            self._agreed()
        self._ending.detach()
        self._overlap.close()
        self._native.close()
        if self._signals is not None:
            self._signals.restore()
        self._group.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            # What went wrong before is what the user wants to see.
            self._overlap.close()
            self._ending()
            if self._signals is not None:
                self._signals.restore()

    def __repr__(self) -> str:
        return f"<forebay.Checkpointer of run {self.run}, rank {_rank_of(self)}>"

    def __reduce__(self) -> Any:
        raise TypeError("a checkpointer belongs to its process and cannot be pickled")


def load_checkpoint(
    lake: str | os.PathLike[str],
    run: str,
    *,
    step: int | None = None,
    names: list[str] | None = None,
    local: str | os.PathLike[str] | None = None,
    local_budget: int | str = LOCAL_BUDGET,
) -> dict[str, Any]:
    """The state of a committed checkpoint, the newest without a ``step``, as plain values.

    ``names`` chooses among what was saved: ``["model"]`` reads the weights alone. Tensors are on the
    CPU and whole, however many ranks held them. Raises :class:`forebay.NotFoundError` when there is
    none.
    """
    from ._errors import NotFoundError

    engine = open_engine(lake, local, local_budget)
    checkpoint = engine.checkpoint(run, step)
    if checkpoint is None:
        raise NotFoundError(f"run {run} has no committed checkpoint")
    stored = read_state(checkpoint, run)
    unknown = [name for name in names or () if name not in stored]
    if unknown:
        raise NotFoundError(
            f"step {checkpoint.step()} of run {run} has no state called {unknown[0]!r}; it has "
            f"{', '.join(sorted(stored))}"
        )
    reader = Reader(checkpoint)
    return {name: reader.read(stored[name]) for name in names or stored}


def settle(native: _forebay.Checkpointer) -> None:
    """Waits for what was saved when nobody is there any more to be told what went wrong."""
    try:
        native.wait()
    except Exception as error:
        print(f"forebay: a checkpoint is not durable: {error}", file=sys.stderr)
    native.close()


def _rank_of(checkpointer: Checkpointer) -> int:
    group = checkpointer.__dict__.get("_group")
    return 0 if group is None else int(group.rank)


def _lend(seen: Seen, numbers: list[int]) -> tuple[list[Any], list[int]]:
    """Memory that holds the values of tensors, and where they begin in it.

    The second is of use for as long as the first, and ``seen``, are kept.
    """
    held: list[Any] = []
    addresses: list[int] = []
    for number in numbers:
        address = seen.addresses[number]
        if not seen.forms.as_it_lies[number]:
            memory, address = stored(seen.values[number])
            held.append(memory)
        addresses.append(address)
    return held, addresses


def _metadata(texts: dict[str, str], metrics: Mapping[str, Any]) -> str:
    """What is stored beside the tensors, as JSON."""
    state = [f"{json.dumps(name)}: {text}" for name, text in texts.items() if name != _RANDOM]
    said = [f'"version": {VERSION}', f'"state": {{{", ".join(state)}}}']
    if _RANDOM in texts:
        said.append(f'"random": {texts[_RANDOM]}')
    numbers = {name: _number(name, value) for name, value in metrics.items()}
    said.append(f'"metrics": {json.dumps(numbers)}')
    return f"{{{', '.join(said)}}}"


def _unwrapped(value: Any) -> Any:
    """A model without what only training wraps around it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return value
    while True:
        if isinstance(value, torch.nn.parallel.DistributedDataParallel):
            value = value.module
        elif isinstance(value, torch.nn.Module) and "_orig_mod" in value._modules:
            value = value._orig_mod
        else:
            return value


def check_name(name: Any) -> None:
    """Refuses what no state can be called."""
    if not isinstance(name, str) or not name or name.startswith("$"):
        raise InvalidError(f"state has the key {name!r}; names are texts, and none starts with $")


def _check_restorable(state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        check_name(name)
        if not (has_state(value) or isinstance(value, (dict, list)) or is_tensor(value)):
            raise InvalidError(
                f"{show((name,))} is a {type(value).__name__}, which cannot be given back in place: "
                "put it into a dict, or give an object with state_dict() and load_state_dict()"
            )


def _dataset(state: Mapping[str, Any]) -> tuple[str, int] | None:
    """The dataset version that checkpoints name: that of the only feed of one dataset."""
    feeds = [getattr(one, "feed", one) for one in state.values()]
    datasets = [one.dataset for one in feeds if isinstance(one, Feed)]
    if len(datasets) != 1 or "+" in datasets[0]:
        return None
    name, version = parse_dataset(datasets[0])
    return None if version is None else (name, version)


def _rule(keep_best: str, count: int) -> dict[str, Any]:
    metric, _, goal = keep_best.rpartition(":")
    if goal not in ("min", "max"):
        metric, goal = keep_best, "min"
    if not metric or count < 1:
        raise InvalidError(
            f"keep_best is {keep_best!r} and keep_best_count {count!r}; write 'loss' or "
            "'accuracy:max', and a number from 1"
        )
    return {"metric": metric, "goal": goal, "count": count}


def _number(name: str, value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    raise InvalidError(f"metric {name!r} is a {type(value).__name__}; give a number")


class _Signals:
    """Remembers signals until a step ends."""

    def __init__(self) -> None:
        self._asked = _NOTHING
        self._before: dict[int, Any] = {}
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGUSR1):
            if signal.getsignal(number) == signal.SIG_DFL:
                self._before[number] = signal.signal(number, self._take)

    def _take(self, number: int, _frame: Any) -> None:
        if number == signal.SIGTERM and self._asked == _STOP:
            # No step came to an end since the first one: whoever insists does not want to wait.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._asked = max(self._asked, _STOP if number == signal.SIGTERM else _SAVE)

    def take(self) -> int:
        """What was asked for since the last time."""
        asked, self._asked = self._asked, _NOTHING
        return asked

    def restore(self) -> None:
        """Lets the signals do again what they did before."""
        if threading.current_thread() is threading.main_thread():
            for number, before in self._before.items():
                signal.signal(number, before)
        self._before.clear()
