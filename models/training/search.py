"""A search for the options of a training, with Optuna (Akiba et al. 2019)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from models.errors import BertstreamError
from models.nn.classifier import HeadConfig
from models.training.classifier_training import ClassifierTraining, CrossValidation
from models.training.finetune import TuneOptions
from models.training.fitting import Epoch
from models.training.frozen import FitOptions

Options = FitOptions | TuneOptions

SPACES: dict[type, dict[str, Any]] = {
    TuneOptions: {
        "learning_rate": (1e-5, 2e-4),
        "epochs": (2, 3, 4, 5),
        "batch_size": (16, 32, 64),
        "label_smoothing": (0.0, 0.2),
        "weight_decay": (1e-3, 1e-1),
        "dropout": (0.0, 0.5),
    },
    FitOptions: {
        "learning_rate": (1e-4, 1e-2),
        "batch_size": (32, 64, 128),
        "label_smoothing": (0.0, 0.2),
        "weight_decay": (1e-3, 1e-1),
        "dropout": (0.0, 0.7),
        "hidden": ("none", "128", "256", "512"),
    },
}
"""Two numbers: from, to; more: one of them."""
LOGARITHMIC = frozenset({"learning_rate", "weight_decay"})
STARTUP = 5
"""Trials that are drawn at random, and none of which is ended early."""


def search(
    training: ClassifierTraining,
    options: Options,
    config: HeadConfig,
    trials: int,
    folds: int | None,
    fixed: Collection[str],
) -> tuple[Options, HeadConfig, dict[str, Any]]:
    """Try options, the given ones first, and choose those of the lowest validation loss.

    A trial that does worse than half of those before it, at the same place, is ended; one whose
    loss is no number any more, or that the memory does not suffice for, has failed.

    Args:
        folds: parts of a cross-validation that judges; None: the share of the documents that is
            held out does.
        fixed: names of options that stay as they are.

    Returns:
        The best options, and what came of each trial as JSON takes it.

    Raises:
        BertstreamError: all trials have failed, nothing is left to search for, or Optuna is not
            installed.
    """
    try:
        import optuna
    except ImportError:
        raise BertstreamError(
            "optuna is not installed: pip install 'bertstream[training]'"
        ) from None
    space = {k: v for k, v in SPACES[type(options)].items() if k not in fixed}
    if not space:
        raise BertstreamError("every option that could be searched for is given")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=options.seed, n_startup_trials=STARTUP),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP),
    )
    study.enqueue_trial(_given(options, config, space))
    failures: list[BertstreamError] = []

    def objective(trial: Any) -> float:
        try:
            return judged(trial)
        except BertstreamError as error:
            failures.append(error)
            raise

    def judged(trial: Any) -> float:
        tried, head = _with(options, config, {k: _suggest(trial, k, v) for k, v in space.items()})
        what = f"trial {trial.number + 1} of {trials}, "

        def settle(step: int, loss: float) -> None:
            trial.report(loss, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        def passed(epoch: Epoch) -> None:
            assert epoch.validation_loss is not None
            settle(epoch.number, epoch.validation_loss)

        def measured(part: int, so_far: CrossValidation) -> None:
            settle(part, so_far.loss)

        if folds is not None:
            found = training.cross_validate(tried, head, folds, what=what, report=measured)
            trial.set_user_attr("accuracy", found.facts()["accuracy"])
            return found.loss
        best = training.fit(tried, head, what=what, report=passed, refit=False).best
        assert best.validation_loss is not None
        trial.set_user_attr("accuracy", best.validation_accuracy)
        return best.validation_loss

    study.optimize(objective, n_trials=trials, catch=BertstreamError)
    if len(failures) == trials:
        raise failures[-1]
    best = study.best_trial
    record = {
        "folds": folds,
        "best": best.number + 1,
        "trials": [
            {
                "number": trial.number + 1,
                "options": trial.params,
                "loss": trial.value,
                "accuracy": trial.user_attrs.get("accuracy"),
                "state": trial.state.name.lower(),
            }
            for trial in study.trials
        ],
    }
    return *_with(options, config, best.params), record


def _suggest(trial: Any, name: str, choices: Any) -> Any:
    if len(choices) > 2:
        return trial.suggest_categorical(name, choices)
    return trial.suggest_float(name, *choices, log=name in LOGARITHMIC)


def _given(options: Options, config: HeadConfig, space: Mapping[str, Any]) -> dict[str, Any]:
    """The options as they are, as values of a trial, where the space has them."""
    hidden = ",".join(map(str, config.layers[1:-1])) or "none"
    given = asdict(options) | {"dropout": config.dropout, "hidden": hidden}
    return {
        name: given[name]
        for name, choices in space.items()
        if (given[name] in choices if len(choices) > 2 else choices[0] <= given[name] <= choices[1])
    }


def _with(
    options: Options, config: HeadConfig, values: dict[str, Any]
) -> tuple[Options, HeadConfig]:
    """Options with values of a trial in their place."""
    own = {field.name for field in fields(options)}
    head: dict[str, Any] = {k: v for k, v in values.items() if k == "dropout"}
    if (hidden := values.get("hidden")) is not None:
        widths = [] if hidden == "none" else map(int, hidden.split(","))
        head["layers"] = (config.layers[0], *widths, config.layers[-1])
    return (
        replace(options, **{k: v for k, v in values.items() if k in own}),
        replace(config, **head),
    )
