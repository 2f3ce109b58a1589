"""As `served`, of a multi-label model: raw image bytes in; labels, any number of them, and probabilities out."""

import mlflow.models
import mlflow.pyfunc
import pydantic


class Prediction(pydantic.BaseModel):
    """What is said of one image. `error` is empty, or it says why the rest is."""

    labels: list[str]
    probabilities: dict[str, float]
    error: str


class ServedLabelsModel(mlflow.pyfunc.PythonModel):
    """Loads the export once; each image is decoded by the rules that training used."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        from pathlib import Path

        from pipeline.registry.classify import Classifier

        self._classifier = Classifier(Path(context.artifacts["model"]))

    def predict(self, model_input: list[bytes]) -> list[Prediction]:
        """One answer an image, in order; an image that cannot be decoded does not cost the others theirs."""
        return [
            Prediction(labels=[], probabilities={}, error=str(answer))
            if isinstance(answer, Exception)
            else Prediction(**answer._asdict(), error="")
            for answer in self._classifier.classify(model_input)
        ]


mlflow.models.set_model(ServedLabelsModel())
