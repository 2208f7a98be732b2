"""The rounds: every contender does every act, in turns, so that a busy minute of the machine hits all alike.

Each round begins with empty stores and goes through the acts; within an act the contenders take turns, in the
opposite order every second round. Before each turn memory is touched (`machine.touch_memory`). However a
round ends, its processes, mounts and files are gone afterwards.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scripts.benchlib import machine
from scripts.benchlib.contender import Measured, Participant, Reference, Timed
from scripts.benchlib.corpus import Corpus
from scripts.benchlib.results import Sample
from scripts.benchlib.stores import Stores
from scripts.benchlib.workloads import Act


def run_rounds(
    contenders: Sequence[type[Participant]],
    acts: Sequence[Act],
    corpus: Corpus,
    *,
    rounds: int,
    directory: Path,
    stores: Stores,
    report: Callable[[Sample], None],
) -> None:
    """Hands each sample to `report` as soon as it is there. What fails ends the run with its error."""
    for number in range(1, rounds + 1):
        order = list(contenders) if number % 2 else list(reversed(contenders))
        with ExitStack() as cleanup:
            running = []
            for kind in order:
                name = kind.name.replace(" ", "-")
                contender = kind(directory / name, stores.empty(f"{name}-{number}"))
                cleanup.callback(_end, contender)
                contender.begin()
                running.append(contender)
            for contender in running:
                contender.meet(running)
            for act in acts:
                for contender in running:
                    machine.touch_memory(int(act.pages * corpus.day1.stat().st_size))
                    for sample in _samples(act, contender, corpus, number):
                        report(sample)


def _samples(act: Act, contender: Participant, corpus: Corpus, number: int) -> Iterator[Sample]:
    if isinstance(contender, Reference):
        figures = contender.measure(act.workloads, corpus)
    else:
        figures = act.perform(contender, corpus)
    for workload, figure in figures.items():
        if isinstance(figure, Timed):
            rate = figure.amount / figure.seconds
            yield Sample(workload, contender.name, number, rate, figure.seconds, figure.parts)
        elif isinstance(figure, Measured):
            yield Sample(workload, contender.name, number, figure.figure, parts=figure.parts)
        elif figure is not None:
            yield Sample(workload, contender.name, number, figure)


def _end(contender: Participant) -> None:
    with uninterrupted():
        contender.end()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A second ^C does not stop what tidies up after the first; nor does anything else that asks to end."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
