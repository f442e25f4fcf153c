"""Build context: the parts of a run that implementations of recipe sections share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tapir.config.recipe import Recipe
from tapir.domain.instruction import Pair
from tapir.domain.roles import Judge, Rejected, Student, Teacher
from tapir.domain.task import Taxonomy
from tapir.models.api.session import ApiSession
from tapir.models.local.ray_cluster import RayCluster
from tapir.models.prompts import PromptSet


@dataclass(frozen=True, slots=True)
class BuildContext:
    """Shared parts of a run, passed to `build(section, context)` of every implementation.

    Attributes:
        taxonomy: the labels of the tagger.
        workers: the Ray cluster; None where this machine does the work.
        student: built before the parts that use it (estimators); None until then.
        teacher: built before the tagger and the evaluation; None until then.
        judge: built before the estimators and the evaluation; None until then.
        read_corpus: returns the rows of the corpus; there are none outside a run.
        sampling_student: makes the student with another temperature; whoever runs opens and closes it.
    """

    recipe: Recipe
    session: ApiSession
    prompts: PromptSet
    taxonomy: Taxonomy
    workers: RayCluster | None = None
    student: Student | None = None
    teacher: Teacher | None = None
    judge: Judge | None = None
    read_corpus: Callable[[], list[Pair | Rejected]] = list
    sampling_student: Callable[[float], Student] | None = None

    def models(self, endpoints: Sequence[str]) -> str:
        """Return the names of the models behind these endpoints, as they are recorded."""
        return " + ".join(dict.fromkeys(self.recipe.endpoints[name].model for name in endpoints))
