"""The command line of scripts/soak, and the order of a run."""

import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path

import click

from scripts.soaklib.chaos import Weather
from scripts.soaklib.patient import Patient
from scripts.soaklib.phases import PHASES, lose_object
from scripts.soaklib.places import KINDS, place_of

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
_option = partial(click.option, show_default=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@_option("--minutes", type=click.FloatRange(min=0), default=6.0, help="No phase begins after this.")
@_option("--seed", type=click.IntRange(min=0), help="Which run; by default another one each time.")
@_option("--store", type=click.Choice(KINDS), default="directory", help="Kind of store.")
@_option("--only", multiple=True, type=click.Choice(list(PHASES)), help="These phases; by default all.")
@click.option(
    "--control", is_flag=True, help="The store loses an object that it acknowledged: the soak has to fail."
)
def soak(minutes: float, seed: int | None, store: str, only: tuple[str, ...], control: bool) -> None:
    """Load a gateway on a real mount, let everything go wrong, and compare every byte.

    Needs root. Prints a line of figures after each phase. When something is wrong it prints what, the command
    that repeats the run (the same work and the same faults; what meets what is up to the machine), and where
    the evidence is, and ends with 1.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    phases = [name for name in PHASES if not only or name in only]
    chosen = "".join(f" --only {name}" for name in only) + (" --control" if control else "")
    again = f"scripts/soak --minutes {minutes:g} --seed {seed} --store {store}{chosen}"
    base = Path(tempfile.mkdtemp(prefix="fusegw-soak-"))
    _say(f"{again}, in {base}")
    whole, line = False, ""
    try:
        with place_of(store, base, seed) as place:
            patient = Patient(place, base, seed)
            try:
                _run(patient, phases, minutes * 60, control=control)
                whole, line = True, patient.line()
            except Exception as error:
                _say(f"FAILED: {error}")
                (base / "failure").write_text("".join(traceback.format_exception(error)))
                patient.keep(base / "evidence")
            finally:
                patient.end()
    except KeyboardInterrupt:
        shutil.rmtree(base, ignore_errors=True)
        _say("interrupted; everything it started has ended")
        sys.exit(EXIT_INTERRUPTED)
    if not whole:
        _say(f"to repeat: {again}; evidence in {base}")
        sys.exit(EXIT_FAILED)
    shutil.rmtree(base)
    _say(f"all is well: {line}")


def _run(patient: Patient, names: list[str], seconds: float, *, control: bool) -> None:
    """Phases until the time is over, then the end."""
    begun = time.monotonic()
    patient.mount()
    waiting: list[str] = []
    while time.monotonic() < begun + seconds or not patient.figures.phases:
        waiting = waiting or patient.chance.sample(names, len(names))
        name = waiting.pop()
        patient.weather(Weather.ROUGH)
        PHASES[name](patient)
        patient.figures.phases[name] += 1
        if control:
            lose_object(patient)
        _settle(patient)
        _say(f"{time.monotonic() - begun:4.0f} s, {name}: {patient.line()}")
    _end(patient)


def _settle(patient: Patient) -> None:
    """All that was done is there."""
    patient.weather(Weather.CALM)
    patient.compare_all()
    patient.check()
    patient.look()


def _end(patient: Patient) -> None:
    """Everything is in the store, the index is consistent, and the store alone gives everything back."""
    assert patient.barrier(), "the store answers, and yet not everything can be stored"
    patient.collect()
    patient.compare_all()
    patient.check("--read-data")
    patient.check_index()
    patient.move()
    patient.mount()
    assert patient.compare_stored() == 0, "steps that nobody made"
    patient.check()


def _say(text: str) -> None:
    print(f"soak: {text}", flush=True)
