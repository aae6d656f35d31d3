"""Scoring of a folder of predictions as the command does it."""

from lightning_modules.evaluation import scoring
from lightning_modules.evaluation.planning import plan_evaluation
from lightning_modules.evaluation.scoring import Scores
from lightning_modules.evaluation.settings import EvaluationRequest, RowSettings, ScoringSettings
from portraits.predictions import FILES, Predictions


def score(predictions: Predictions, settings: ScoringSettings) -> Scores:
    """Write the manifest, remove files that it does not list, and score the predictions as the command
    does."""
    predictions.save()
    named = {view.image for view in predictions.views}
    named |= {getattr(view, kind) for view in predictions.views for kind in FILES}
    for path in predictions.folder.glob("*/*.png"):
        if path.relative_to(predictions.folder).as_posix() not in named:
            path.unlink()
    request = EvaluationRequest(
        RowSettings(scoring=settings),
        predictions=[str(predictions.folder)],
        out=str(predictions.folder.parent / "out"),
        device="cpu",
    )
    (row,) = plan_evaluation(request).rows
    assert row.predictions == predictions
    return scoring.score(row.predictions, row.scoring)
