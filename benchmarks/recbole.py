"""Time our backbones beside RecBole 1.2.1, in turn, and print the ratios.

    python -m benchmarks.recbole --dataset beauty --output docs/results/recbole_beauty.md
    python -m benchmarks.recbole --project DIR --models sasrec,lightgcn --repeats 1

RecBole gets an environment of its own (--environment, made at the first call) and the same split as files, checked
against ours by a hash of what it says it trains and validates on. Without --project, the projects are those
that `python -m ranking.experiments prepare` leaves. What was measured is kept beside --output as JSON lines;
the same command resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.recbole_data import expected_data, fingerprint, write_atomic_files
from benchmarks.recbole_rounds import Contest, Contestant, Measurement, play, table
from benchmarks.workers import ask, make_environment
from ranking.experiments.dataset import load_dataset
from ranking.project import RankingProject
from ranking.splits import Split
from reland_features.errors import RelandError

# scipy, numpy and setuptools: the last that RecBole 1.2.1 runs with unpatched.
REQUIREMENTS = (
    "recbole==1.2.1",
    "numpy==1.26.4",
    "pandas==2.2.3",
    "scipy==1.11.4",
    "setuptools<81",
    "torch==2.13.0",
)
WORKERS = Path(__file__).parent
CONTESTS = {
    contest.name: contest
    for contest in (
        Contest(
            "sasrec",
            "sequential",
            Contestant("RecBole SASRec", "recbole", "SASRec"),
            (
                Contestant("SASRec", "ours", "sasrec", {"negatives": 0}),
                Contestant("SASRec, 512 negatives", "ours", "sasrec", {"negatives": 512}),
                Contestant("DuoRec", "ours", "duorec", {"negatives": 0}, against="SASRec"),
            ),
        ),
        Contest(
            "gru4rec",
            "sequential",
            Contestant("RecBole GRU4Rec", "recbole", "GRU4Rec"),
            (
                Contestant("GRU4Rec", "ours", "gru4rec", {"negatives": 0}),
                Contestant("GRU4Rec, 512 negatives", "ours", "gru4rec", {"negatives": 512}),
            ),
        ),
        *(
            Contest(
                model.lower(),
                "collaborative",
                Contestant(f"RecBole {model}", "recbole", model),
                (Contestant(model, "ours", model.lower()),),
            )
            for model in ("LightGCN", "NGCF", "NeuMF")
        ),
    )
}


def main() -> None:
    arguments = _arguments()
    try:
        text = compare(arguments)
    except RelandError as error:
        raise SystemExit(str(error)) from error
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)
    print(text)


def compare(arguments: argparse.Namespace) -> str:
    """Measure what is asked for and return the report."""
    contests = [_tuned(CONTESTS[name], arguments) for name in arguments.models]
    splits = {task: Split.of(RankingProject.open(_project(arguments, task))) for task in {c.task for c in contests}}
    check_python()
    make_environment(arguments.environment, REQUIREMENTS)
    folders = {task: write_atomic_files(split, task, arguments.environment / "data") for task, split in splits.items()}
    common = {"epochs": arguments.epochs, "threads": arguments.threads}
    parts = {"fraction_of_epoch": arguments.fraction_of_epoch, "fraction_of_users": arguments.fraction_of_users}
    theirs = {**parts, "eval_batch": arguments.eval_batch}

    def run(contest: Contest, one: Contestant, repeat: int) -> list[Measurement]:
        task = contest.task
        print(f"{contest.name}, round {repeat + 1} of {arguments.repeats}: {one.label}", file=sys.stderr, flush=True)
        request = {"model": one.model, "task": task, "seed": repeat, **common}
        if one.side == "ours":
            request |= {"project": str(_project(arguments, task)), "options": one.options, "fit": one.fit}
            return ask([sys.executable, "-m", "benchmarks.ours_worker"], request, WORKERS.parent, arguments.threads)
        request |= {"folder": str(folders[task]), **theirs}
        # -P: this folder holds a module of RecBole's name. -W: RecBole warns of its own use of pandas and torch.
        python = [str(arguments.environment / "bin" / "python"), "-P", "-W", "ignore"]
        command = [*python, str(WORKERS / "recbole_worker.py")]
        data, *measurements = ask(command, request, arguments.environment, arguments.threads)
        if {key: data[key] for key in ("training", "validation")} != expected_data(splits[task], task):
            raise RelandError("RecBole trains or validates on other interactions than we do", where=one.label, got=data)
        return measurements

    conditions = {
        task: {**common, **theirs, "machine": machine(), "code": code_digest(), "data": fingerprint(split)}
        for task, split in splits.items()
    }
    raw = (arguments.output or arguments.environment / "measured").with_suffix(".jsonl")
    rounds = play(contests, arguments.repeats, conditions, run, raw)
    return report(arguments, contests, splits, table(contests, rounds, seconds=_seconds_of(arguments.threads)))


def report(arguments: argparse.Namespace, contests: list[Contest], splits: dict[str, Split], ratios: str) -> str:
    """Return the page that the table stands on."""
    clock = "CPU seconds of one thread" if arguments.threads == 1 else f"seconds with {arguments.threads} threads"
    epochs, repeats = arguments.epochs, arguments.repeats
    return "\n".join(
        [
            f"# Ours beside RecBole 1.2.1{f' on {arguments.dataset}' if not arguments.project else ''}",
            "",
            f"`{arguments.command}`",
            "",
            f"Machine: {machine()}" + (f". {arguments.note}" if arguments.note else ""),
            "",
            *(
                f"- {task}: {s.n_users:,} users, {s.n_items:,} items, {int(s.training.sum()):,} training and "
                f"{int(s.validation.sum()):,} validation interactions, the same for both"
                for task, s in splits.items()
            ),
            "",
            ratios,
            "",
            f"Medians of {repeats} round{'s' * (repeats != 1)}, {clock}: one epoch, and the full ranking of the "
            f"validation part. Ratios are taken within a round (lowest to highest). NDCG@10 on the validation part "
            f"after {epochs} epoch{'s' * (epochs != 1)}; seen items are ranked too in sequential models and left out "
            "in collaborative ones, as RecBole does. Preparation is not timed on either side. RecBole: embedding 64, "
            "batch 1,024, history 50, CE (sequential), BPR (LightGCN, NGCF), its default binary cross-entropy (NeuMF: "
            "1,024 are 512 positives and 512 negatives; ours is BPR of 1,024 pairs), "
            f"evaluation batch {arguments.eval_batch:,}, every other setting its default; "
            f"{' '.join(REQUIREMENTS)}. Ours: "
            + ("the hyperparameters of the data set's TOML file." if arguments.tuned else "the defaults of each class.")
            + (" RecBole has no DuoRec." if any(one.against for c in contests for one in c.ours) else ""),
            "",
        ]
    )


def code_digest() -> str:
    """Return a hash of our side's code: figures of other code are measured anew."""
    root = WORKERS.parent
    names = ("fitting", "full_ranking", "splits", "backbones/*")
    files = [path for name in names for path in sorted((root / "ranking").glob(f"{name}.py"))]
    files.append(root / "reland_features" / "encoders" / "sasrec.py")
    return hashlib.blake2b(b"".join(file.read_bytes() for file in files), digest_size=8).hexdigest()


def check_python() -> None:
    """Raise `RelandError` where RecBole's numpy cannot be installed."""
    if sys.version_info >= (3, 13):
        raise RelandError(
            "RecBole's numpy is built for Python 3.12 at most",
            got=sys.version.split()[0],
            hint="run this command from a virtual environment of Python 3.11 or 3.12",
        )


def _tuned(contest: Contest, arguments: argparse.Namespace) -> Contest:
    if not arguments.tuned:
        return contest
    dataset = load_dataset(arguments.dataset)
    ours = []
    for one in contest.ours:
        found = dataset.hyperparameters(contest.task, one.model).as_dict()
        ours.append(dataclasses.replace(one, options=found["options"] | one.options, fit=found["fit"] | one.fit))
    return dataclasses.replace(contest, ours=tuple(ours))


def _project(arguments: argparse.Namespace, task: str) -> Path:
    return (arguments.project or arguments.projects / arguments.dataset / task).resolve()


def _seconds_of(threads: int) -> str:
    return "cpu_s" if threads == 1 else "wall_s"  # the CPU time of several threads counts their waiting


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="beauty", metavar="NAME")
    parser.add_argument("--projects", type=Path, default=Path("experiments"), metavar="ROOT")
    parser.add_argument("--project", type=Path, metavar="DIR", help="take this project for every model")
    parser.add_argument("--models", type=_models, default=list(CONTESTS), metavar="NAME,…")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--epochs", type=int, default=1, metavar="N", help="before the evaluation; each is timed")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="1 counts CPU time, more wall time")
    parser.add_argument(
        "--tuned", action="store_true", help="ours with the hyperparameters of the data set's TOML file"
    )
    parser.add_argument("--fraction-of-epoch", type=_fraction, default=1.0, metavar="F", help="of RecBole's steps")
    parser.add_argument("--fraction-of-users", type=_fraction, default=1.0, metavar="F", help="of RecBole's ranking")
    parser.add_argument("--eval-batch", type=int, default=4096, metavar="N", help="RecBole's; 4096 is its default")
    default = Path.home() / ".cache" / "reland-features" / "recbole"
    parser.add_argument("--environment", type=Path, default=default, metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE")
    parser.add_argument("--note", default="", help="printed beside the machine, such as what else was running")
    arguments = parser.parse_args()
    arguments.environment = arguments.environment.resolve()
    arguments.command = _command(arguments)
    return arguments


def _command(arguments: argparse.Namespace) -> str:
    """Return what to type for the same figures, without the paths of this machine."""
    chosen = [
        f"--models {','.join(arguments.models)}",
        f"--repeats {arguments.repeats} --epochs {arguments.epochs} --threads {arguments.threads}",
        f"--eval-batch {arguments.eval_batch}",
        *(["--tuned"] if arguments.tuned else []),
        *(
            f"--{name} {value}"
            for name, value in (
                ("fraction-of-epoch", arguments.fraction_of_epoch),
                ("fraction-of-users", arguments.fraction_of_users),
            )
            if value < 1
        ),
    ]
    source = "--project DIR" if arguments.project else f"--dataset {arguments.dataset}"
    if arguments.project and arguments.tuned:
        source += f" --dataset {arguments.dataset}"
    return f"python -m benchmarks.recbole {source} {' '.join(chosen)}"


def _models(text: str) -> list[str]:
    names = text.split(",")
    if unknown := sorted(set(names) - set(CONTESTS)):
        raise argparse.ArgumentTypeError(f"no such model: {', '.join(unknown)}; there are {', '.join(CONTESTS)}")
    return names


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


if __name__ == "__main__":
    main()
