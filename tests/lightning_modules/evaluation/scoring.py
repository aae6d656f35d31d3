"""Scores of a folder of predictions, by the plan that the command makes."""

from lightning_modules.evaluation import scoring
from lightning_modules.evaluation.planning import plan_evaluation
from lightning_modules.evaluation.scoring import Scores
from lightning_modules.evaluation.settings import EvaluationRequest, RowSettings, ScoringSettings
from portraits.predictions import FILES, Predictions


def score(predictions: Predictions, settings: ScoringSettings) -> Scores:
    """Scores of predictions as the command scores them, once their manifest is written and files that it does
    not name are gone."""
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
