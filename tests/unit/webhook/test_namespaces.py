"""Admission of Namespaces."""

from datetime import timedelta
from typing import Any

import pytest

from keyshred.errors import Malformed, PolicyNotFresh
from keyshred.names import ANNOTATION_HELD, LABEL_SEALING, NEVER_SEALED_NAMESPACES
from keyshred.webhook.namespaces import NamespaceAdmission
from keyshred.webhook.review import ALLOW, Answer, Review
from tests.unit.fakes import NOW, FixedSnapshot, authorization, policy

Json = dict[str, Any]
NAME = "team-a"


def namespace(labels: Json | None = None, annotations: Json | None = None) -> Json:
    return {"metadata": {"name": NAME, "labels": labels, "annotations": annotations}}


async def admit(operation: str, new: Json | None, old: Json | None = None, name: str = NAME, **spec: Any) -> Answer:
    spec = {"namespaces": {"names": [NAME, *NEVER_SEALED_NAMESPACES]}} | spec
    admission = NamespaceAdmission(FixedSnapshot(policy(authorization(**spec))).snapshot)
    return await admission.admit(Review("1", operation, "", name, "key-admin", False, new, old))


def added(answer: Answer) -> dict[str, Any]:
    assert all(operation["op"] == "add" for operation in answer.patch)
    return {operation["path"]: operation["value"] for operation in answer.patch}


@pytest.mark.parametrize("labels", [None, {}, {LABEL_SEALING: "retained"}, {LABEL_SEALING: "x"}])
async def test_a_selected_namespace_gets_the_label(labels: Json | None) -> None:
    answer = await admit("CREATE", namespace(labels))
    assert added(answer) == {"/metadata/labels": {LABEL_SEALING: "enabled"}} and not answer.warnings


async def test_the_label_that_is_there_is_left() -> None:
    assert not (await admit("CREATE", namespace({LABEL_SEALING: "enabled", "a": "b"}))).patch


async def test_what_is_false_is_taken_off() -> None:
    new = namespace({LABEL_SEALING: "enabled", "a": "b"}, {ANNOTATION_HELD: "*", "c": "d"})
    answer = await admit("CREATE", new, namespaces={"names": ["other"]})
    assert added(answer) == {"/metadata/labels": {"a": "b"}, "/metadata/annotations": {"c": "d"}}


@pytest.mark.parametrize(
    "spec",
    [
        {"mode": "Preview"},
        {"expirationTime": (NOW - timedelta(hours=1)).isoformat()},
        {"namespaces": {"selector": {"matchLabels": {"a": "b"}}}},
    ],
)
async def test_what_is_not_selected_gets_none(spec: Json) -> None:
    assert not (await admit("CREATE", namespace(), **spec)).patch


async def test_labels_select() -> None:
    spec = {"namespaces": {"selector": {"matchLabels": {"a": "b"}}}}
    answer = await admit("CREATE", namespace({"a": "b"}), name="", **spec)
    assert added(answer) == {"/metadata/labels": {"a": "b", LABEL_SEALING: "enabled"}}


@pytest.mark.parametrize("name", ["keyshred", *sorted(NEVER_SEALED_NAMESPACES)])
async def test_some_are_never_sealed(name: str) -> None:
    assert not (await admit("CREATE", namespace(), name=name)).patch


async def test_an_update_keeps_what_is_ours_and_says_so() -> None:
    old = namespace({LABEL_SEALING: "retained"}, {ANNOTATION_HELD: "a,b"})
    answer = await admit("UPDATE", namespace({LABEL_SEALING: "enabled", "x": "y"}, {ANNOTATION_HELD: "*"}), old)
    assert added(answer) == {
        "/metadata/labels": {LABEL_SEALING: "retained", "x": "y"},
        "/metadata/annotations": {ANNOTATION_HELD: "a,b"},
    }
    assert "stay as they were" in answer.warnings[0]
    assert added(await admit("UPDATE", namespace({LABEL_SEALING: "enabled"}), namespace())) == {"/metadata/labels": {}}
    unchanged = await admit("UPDATE", namespace({"x": "y"}), namespace())
    assert not unchanged.patch and not unchanged.warnings


async def test_other_operations_pass() -> None:
    assert await admit("DELETE", None, namespace()) == ALLOW


@pytest.mark.parametrize("obj", [None, {}, {"metadata": "x"}])
async def test_a_review_without_an_object(obj: Json | None) -> None:
    with pytest.raises(Malformed):
        await admit("CREATE", obj)


async def test_without_a_policy_there_is_no_answer() -> None:
    snapshot = FixedSnapshot(None)
    with pytest.raises(PolicyNotFresh):
        await NamespaceAdmission(snapshot.snapshot).admit(
            Review("1", "CREATE", "", NAME, "u", False, namespace(), None)
        )
