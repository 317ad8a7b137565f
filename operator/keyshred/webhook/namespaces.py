"""Admission of Namespaces: the sealing label is there from the first moment, and nobody else's."""

from dataclasses import dataclass

from keyshred.errors import Malformed
from keyshred.names import ANNOTATION_HELD, LABEL_SEALING
from keyshred.policy.coverage import wanted_label
from keyshred.times import utc_now
from keyshred.webhook.review import ALLOW, Answer, Json, Review
from keyshred.webhook.snapshot import Snapshot


@dataclass(slots=True)
class NamespaceAdmission:
    """What a Namespace's admission needs."""

    snapshot: Snapshot

    async def admit(self, review: Review) -> Answer:
        """CREATE: the label that the KeyAuthorizations want, and no other. UPDATE: puts back what is not the sender's.

        Raises PolicyNotFresh. The API server goes on without us then, and a policy there refuses a namespace that is
        selected.
        """
        if review.operation not in ("CREATE", "UPDATE"):
            return ALLOW
        meta = _metadata(review.object)
        if review.operation == "CREATE":
            labels = _strings(meta, "labels")
            label: str | None = wanted_label(await self.snapshot.policy(), review.name, labels, utc_now())
            held = None  # it holds no Secret yet
        else:
            old = _metadata(review.old_object)
            label = _strings(old, "labels").get(LABEL_SEALING)
            held = _strings(old, "annotations").get(ANNOTATION_HELD)
        # Put back, not refused: a manifest without them, sent by replace, means no harm.
        patch = [*_set(meta, "labels", LABEL_SEALING, label), *_set(meta, "annotations", ANNOTATION_HELD, held)]
        return Answer(patch, (_OURS,) if patch and review.operation == "UPDATE" else ())


_OURS = (
    f"keyshred: the label {LABEL_SEALING} and the annotation {ANNOTATION_HELD} are keyshred's own and stay "
    "as they were: change what the KeyAuthorizations select instead"
)


def _metadata(obj: Json | None) -> Json:
    if obj is None or not isinstance(obj.get("metadata"), dict):
        raise Malformed("the AdmissionReview carries no object")
    return dict(obj["metadata"])


def _strings(meta: Json, kind: str) -> dict[str, str]:
    return meta.get(kind) or {}


def _set(meta: Json, kind: str, name: str, value: str | None) -> list[Json]:
    there = _strings(meta, kind)
    if there.get(name) == value:
        return []
    wanted = {k: v for k, v in there.items() if k != name} | ({name: value} if value is not None else {})
    return [{"op": "add", "path": f"/metadata/{kind}", "value": wanted}]
