"""`reland tune`: marts → lessons → adapter → the same measures before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from statistics import mean
from typing import TYPE_CHECKING, Any

import polars as pl

from reland_features.artifacts import Draft
from reland_features.config import Rationales
from reland_features.engines import build
from reland_features.errors import ConfigError
from reland_features.ledger import Ledger
from reland_features.project import Project, models_cache
from reland_features.prompts import Catalogue, PromptTemplate
from reland_features.rationales import generate
from reland_features.seed_tables import SeedTables
from reland_features.stages import Outcome, Progress, run_stage
from reland_features.tuning.adapters import ADAPTER, with_adapter
from reland_features.tuning.examples import Example, Learners, draw_learners, make_examples
from reland_features.tuning.measures import answers_of, compare, constant_answers, futures_of, shuffled_answers
from reland_features.tuning.tokens import Lesson, make_lessons

if TYPE_CHECKING:
    from reland_features.engines.hf import HFEngine

MEASURED = "tuning_measures"
_PROBE_STEPS = 2
_RECIPE = 2  # how examples are written and learned; raise it with every change that makes other adapters


@dataclass(frozen=True)
class Course:
    """All that an adapter is learned from."""

    learners: Learners
    items: pl.DataFrame
    catalogue: Catalogue
    examples: list[Example]
    lessons: list[Lesson]


@dataclass(frozen=True)
class TuningJob:
    """Tune the LLM of a project on its marts.

    Parameters
    ----------
    project : Project
        `rationales` names the base model and the prompt, `tuning` how it is learned.
    outcomes : mapping
        The finished stage `prepare`, and `sample` where seeds are excluded.
    """

    project: Project
    outcomes: Mapping[str, Outcome]

    @staticmethod
    def needs(project: Project) -> str:
        """Return the last stage that tuning builds on.

        Raises
        ------
        ConfigError
            The engine is not one whose weights can be tuned.
        """
        if project.config.rationales.engine != "hf":
            raise ConfigError(
                "only a model on this machine can be tuned",
                where="rationales.engine",
                got=project.config.rationales.engine,
                expected="hf",
                hint='reland tune --set rationales.engine=hf --set rationales.model="FOLDER or packaged name"',
            )
        return "sample" if project.config.tuning.exclude_seeds else "prepare"

    def plan(self) -> dict[str, Any]:
        """Say what tuning would do and, from two timed steps, for how long; nothing is kept."""
        from reland_features.tuning.lora import batches, learn, steps_of

        settings, seed = self.project.config.tuning, self.project.config.seed
        with closing(self._engine(None)) as engine:
            course = self._course(engine)
            timed = learn(engine, course.lessons, settings, seed, steps=_PROBE_STEPS)
        tokens = sum(len(lesson.tokens) for lesson in course.lessons)
        probed = islice(batches(course.lessons, settings, seed), _PROBE_STEPS)
        per_token = sum(timed.seconds) / sum(len(lesson.tokens) for batch in probed for lesson in batch)
        return {
            "examples": len(course.lessons),
            "left_out": course.learners.training.height - len(course.lessons),
            "held_out_users": course.learners.held_out.height,
            "tokens": tokens,
            "decisions": sum(len(lesson.decisions) for lesson in course.lessons),
            "steps": steps_of(len(course.lessons), settings),
            "seconds_per_step": round(mean(timed.seconds), 2),
            "hours_of_learning": round(per_token * tokens * settings.epochs / 3600, 3),
        }

    def tune(self, progress: Progress) -> Outcome:
        """Learn the adapter and keep it as an artifact; a killed run goes on from its last checkpoint."""
        from reland_features.tuning.lora import learn

        settings, seed = self.project.config.tuning, self.project.config.seed
        with closing(self._engine(None)) as engine:
            config = self._config(engine)
            inputs = [outcome.artifact.id for outcome in self._inputs]
            marts = self.outcomes["prepare"]
            artifact_id = self.project.artifacts.id_of(ADAPTER, marts.as_of, config, inputs)
            checkpoint = self.project.state / "tuning" / f"{artifact_id}.pt"

            def work(draft: Draft) -> tuple[int, int]:
                course = self._course(engine)
                training = learn(engine, course.lessons, settings, seed, checkpoint, on_step=progress)
                training.model.save_pretrained(draft.path)
                (draft.path / "README.md").unlink(missing_ok=True)  # peft's model card, without content
                draft.facts |= {
                    "losses": [round(loss, 4) for loss in training.losses],
                    "learning_seconds": round(sum(training.seconds), 1),
                    "tokens": sum(len(lesson.tokens) for lesson in course.lessons),
                    "decisions": sum(len(lesson.decisions) for lesson in course.lessons),
                }
                return len(course.lessons), len(training.losses)

            made = run_stage(self.project, "tune", ADAPTER, as_of=marts.as_of, config=config, inputs=inputs, work=work)
        checkpoint.unlink(missing_ok=True)
        return made

    def measure(self, tuned: Outcome, progress: Progress) -> Outcome:
        """Let the base and the tuned model answer for the held-out users, and score both.

        Every answer is in the project's ledger: a killed run asks for none again.
        """
        seed = self.project.config.seed
        held_out = {"held_out": self.project.config.tuning.held_out}

        def work(draft: Draft) -> tuple[int, int]:
            rationales = {}
            for name, adapter in (("base", None), ("tuned", tuned.artifact.id)):
                with closing(self._engine(adapter)) as engine:
                    learners, items, catalogue = self._users()
                    rationales[name] = self._rationales(engine, learners.held_out, items, progress)
                rationales[name].write_parquet(draft.table(name))
            answers = {name: answers_of(frame) for name, frame in rationales.items()}
            settings = self.project.config.rationales
            sources = {
                **answers,
                "tuned, shuffled over users": shuffled_answers(answers["tuned"], seed),
                "constant": constant_answers(learners.held_out, items, catalogue, settings.categories, settings.items),
            }
            futures = futures_of(learners.held_out, catalogue)
            differences = [("tuned", other) for other in sources if other != "tuned"]
            draft.facts["measures"] = compare(sources, futures, differences, seed)
            return len(futures), len(sources)

        return run_stage(
            self.project,
            "measure",
            MEASURED,
            as_of=tuned.as_of,
            config={**held_out, "recipe": _RECIPE},
            inputs=[tuned.artifact.id],
            work=work,
        )

    @property
    def _inputs(self) -> list[Outcome]:
        names = ("prepare", "sample") if self.project.config.tuning.exclude_seeds else ("prepare",)
        return [self.outcomes[name] for name in names]

    @property
    def _template(self) -> PromptTemplate:
        return PromptTemplate.of(self.project.config.rationales, base=self.project.root)

    def _settings(self, adapter: str | None) -> Rationales:
        # The limits of a run are not limits of this; an unusable answer is measured, not an error.
        free = {"max_requests": None, "max_total_tokens": None, "max_cost": None, "max_failed_fraction": 1.0}
        settings = self.project.config.rationales.model_copy(update={**free, "adapter": adapter})
        return with_adapter(settings, self.project.artifacts)

    def _engine(self, adapter: str | None) -> HFEngine:
        engine: Any = build(self._settings(adapter), models_cache())
        return engine

    def _config(self, engine: HFEngine) -> dict[str, Any]:
        """Return what an adapter's id is made of, besides the tables."""
        config = self.project.config
        asked = config.rationales.model_dump(mode="json", include={"max_history", "categories", "items"})
        learned = config.tuning.model_dump(mode="json", exclude={"micro_batch_size", "checkpoint_steps"})
        return {
            "model": config.rationales.model,
            "engine_id": engine.engine_id,
            "prompt_id": self._template.prompt_id,
            **asked,
            **learned,
            "max_data_history": config.data.max_history,
            "seed": config.seed,
            "recipe": _RECIPE,
        }

    def _users(self) -> tuple[Learners, pl.DataFrame, Catalogue]:
        config, marts = self.project.config, self.outcomes["prepare"].artifact
        interactions = pl.read_parquet(marts.table("interactions"), columns=["user_id", "item_id", "interaction_order"])
        excluded: list[str] = []
        if config.tuning.exclude_seeds:
            seeds = pl.read_parquet(self.outcomes["sample"].artifact.table("seed_users"), columns=["user_id"])
            excluded = seeds["user_id"].to_list()
        learners = draw_learners(interactions, excluded, config.tuning, config.data.max_history, config.seed)
        items = pl.read_parquet(marts.table("items"))
        return learners, items, self._template.catalogue(items)

    def _course(self, engine: HFEngine) -> Course:
        learners, items, catalogue = self._users()
        examples = make_examples(learners.training, catalogue, self._template, self.project.config.rationales, engine)
        prompts = engine.encode([example.request for example in examples])
        limit = self.project.config.tuning.max_tokens
        lessons = make_lessons(examples, prompts, catalogue.options(), engine.vocabulary, limit)
        if not lessons:
            raise ConfigError(
                "there is nothing to learn from",
                where="tuning",
                got=f"{learners.training.height:,} users, {len(examples):,} examples, none of at most {limit:,} tokens",
                hint="reland tune --set tuning.max_tokens=N, or a larger tuning.horizon",
            )
        return Course(learners, items, catalogue, examples, lessons)

    def _rationales(
        self, engine: HFEngine, held_out: pl.DataFrame, items: pl.DataFrame, progress: Callable[[int, int], None]
    ) -> pl.DataFrame:
        seeds = held_out.select("user_id")
        with Ledger(self.project.ledger) as ledger:
            settings = self._settings(None)
            tables = SeedTables(seeds, held_out, items, seen=held_out.select("user_id", item_ids="seen"))
            return generate(tables, self._template, engine, ledger, settings, progress).frame
