"""Which key a Secret is sealed under, and who may unseal it."""

from datetime import timedelta
from typing import Any

import pytest

from keyshred.errors import KeyGone, KeyNotUsable, KeyshredError, NotAllowed, Refused
from keyshred.names import LABEL_ROOT_KEY, LABEL_SEALING, NEVER_SEALED_TYPES, KeyState, Sealing
from keyshred.policy.authorizations import Caller, Policy, Verdict, choose_key, may_unseal, sealing_key
from keyshred.policy.resources import SecretMeta
from tests.unit.fakes import KEY_A, KEY_B, NOW, SEALING, authorization, policy, root_key

SECRET = SecretMeta("s", "Opaque", {})
PAST = (NOW - timedelta(seconds=1)).isoformat()

STATES = {
    KeyState.PRE_ACTIVATION: (root_key(state="PreActivation"), "KeyNotUsable"),
    KeyState.ACTIVE: (root_key(), "ok"),
    KeyState.SUSPENDED: (root_key(suspended=True), "KeyNotUsable"),
    KeyState.DEACTIVATED: (root_key(expirationTime=PAST), "ok"),
    KeyState.PENDING_DESTRUCTION: (root_key(deleting=True), "KeyNotUsable"),
    KeyState.DESTROYED: (root_key(state="Destroyed"), "KeyGone"),
}
"""By state: a RootKey in it, and what unsealing under it comes to."""


def labelled(name: str) -> SecretMeta:
    return SecretMeta("s", "Opaque", {LABEL_ROOT_KEY: name})


# --- coverage


@pytest.mark.parametrize(
    ("namespace", "labels", "expected"),
    [
        ("ns", {LABEL_SEALING: "enabled"}, Sealing.ENABLED),
        ("ns", {LABEL_SEALING: "retained"}, Sealing.RETAINED),
        ("ns", {LABEL_SEALING: "yes"}, None),
        ("ns", {}, None),
        ("kube-system", {LABEL_SEALING: "enabled"}, None),
        ("keyshred", {LABEL_SEALING: "enabled"}, None),
    ],
)
def test_sealing_namespaces(namespace: str, labels: dict[str, str], expected: Sealing | None) -> None:
    assert policy(namespaces={namespace: labels}).sealing(namespace) is expected


def test_preview_counts_for_nothing() -> None:
    p = policy(root_key(), authorization(mode="Preview"))
    assert p.selecting("ns", SEALING, NOW) == p.covering("ns", SECRET, NOW) == []
    assert verdict(p) == Verdict.NOT_AUTHORIZED
    assert verdict(p, POD, SECRET, None) == "ok", "what is not sealed, and not to be, is the pod's as it was"


@pytest.mark.parametrize("spec", [{"mode": "Release"}, {"operations": ["Unseal"]}])
def test_what_seals_nothing_new_still_unseals(spec: dict[str, Any]) -> None:
    assert verdict(policy(root_key(), authorization(**spec))) == "ok"


def test_a_namespace_that_is_not_known_seals_nothing() -> None:
    assert policy(namespaces={}).sealing("ns") is None


@pytest.mark.parametrize("namespace", ["kube-system", "kube-public", "kube-node-lease", "keyshred"])
def test_namespaces_that_are_never_sealed(namespace: str) -> None:
    p = policy(root_key(), authorization(namespaces={"selector": {}}), namespaces={namespace: SEALING})
    assert choose_key(p, namespace, SECRET, NOW) is None


@pytest.mark.parametrize("secret_type", sorted(NEVER_SEALED_TYPES))
def test_types_that_are_never_sealed(secret_type: str) -> None:
    p = policy(root_key(), authorization(secrets={"types": [secret_type]}))
    assert choose_key(p, "ns", SecretMeta("s", secret_type, {}), NOW) is None


# --- which key


def chosen(p: Policy, secret: SecretMeta = SECRET) -> str | None:
    found = choose_key(p, "ns", secret, NOW)
    return found.name if found else None


TWO_KEYS = (root_key(), root_key("rk2", KEY_B), authorization(), authorization("ka2", root_key="rk2", key_id=KEY_B))


def test_one_key() -> None:
    assert chosen(policy(root_key(), authorization())) == "ka"


@pytest.mark.parametrize(
    "spec",
    [
        {"namespaces": {"names": ["other"]}},
        {"expirationTime": PAST},
        {"deleting": True},
        {"operations": ["Unseal"]},
        {"secrets": {"exclude": {"names": ["s"]}}},
    ],
)
def test_nobody_wants_it_sealed(spec: dict[str, Any]) -> None:
    assert chosen(policy(root_key(), authorization(**spec))) is None


def test_several_keys_need_a_choice() -> None:
    with pytest.raises(Refused, match=r"rk, rk2 are all authorised.*keyshred.dev/root-key"):
        chosen(policy(*TWO_KEYS))


@pytest.mark.parametrize(("label", "expected"), [("rk", "ka"), ("rk2", "ka2")])
def test_the_label_chooses(label: str, expected: str) -> None:
    assert chosen(policy(*TWO_KEYS), labelled(label)) == expected


def test_the_label_cannot_choose_a_key_that_is_not_authorised() -> None:
    with pytest.raises(Refused, match=r"=rk2 names a RootKey that no KeyAuthorization gives this Secret"):
        chosen(policy(root_key(), root_key("rk2", KEY_B), authorization()), labelled("rk2"))


def test_an_uncovered_secret_is_nobodys_whatever_its_label() -> None:
    assert chosen(policy(root_key()), labelled("rk2")) is None


@pytest.mark.parametrize("turn", [1, -1])
def test_the_authorization_for_the_key_of_today_is_taken(turn: int) -> None:
    both = (authorization("old", key_id=KEY_B), authorization("new"))
    assert chosen(policy(root_key(), *both[::turn])) == "new"


def test_one_for_an_earlier_key_still_covers() -> None:
    """Lest the Secret be stored in plaintext."""
    assert chosen(policy(root_key(), authorization(key_id=KEY_B))) == "ka"


@pytest.mark.parametrize("turn", [1, -1])
def test_of_several_for_one_key_always_reseal_wins(turn: int) -> None:
    both = (authorization("keep"), authorization("reseal", reapply="AlwaysReseal"))
    assert chosen(policy(root_key(), *both[::turn])) == "reseal"


# --- whether it seals


def test_the_sealing_key() -> None:
    p = policy(root_key(), authorization())
    key, key_id = sealing_key(p, p.authorizations[0], NOW)
    assert (key.name, key_id) == ("rk", KEY_A)


@pytest.mark.parametrize("state", [s for s in KeyState if s is not KeyState.ACTIVE])
def test_only_an_active_key_seals(state: KeyState) -> None:
    p = policy(STATES[state][0], authorization())
    with pytest.raises(KeyNotUsable, match=f"RootKey rk is {state}: new values are sealed only while it is Active"):
        sealing_key(p, p.authorizations[0], NOW)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (None, "RootKey rk of KeyAuthorization ka does not exist"),
        (root_key(key_id=KEY_B), "was given for an earlier key named rk"),
        (root_key(key_id=None), "was given for an earlier key named rk"),
        (root_key() | {"status": {"state": "Active"}}, "RootKey rk"),
    ],
)
def test_what_does_not_seal(key: dict[str, Any] | None, message: str) -> None:
    p = policy(*([key] if key else []), authorization())
    with pytest.raises(KeyNotUsable, match=message):
        sealing_key(p, p.authorizations[0], NOW)


def test_one_that_is_not_stamped_seals_nothing() -> None:
    p = policy(root_key(key_id=None), authorization(key_id=None))
    with pytest.raises(KeyNotUsable):
        sealing_key(p, p.authorizations[0], NOW)


# --- who may unseal

POD = Caller("ns", "app", refers=True)
UNBOUND = Caller("ns", "app", refers=False)
FOREIGN = Caller("other", "app", refers=False)


def subject(namespace: str = "ns", name: str = "app", allow: bool = False) -> dict[str, Any]:
    return {"namespace": namespace, "name": name, "allowUnbound": allow}


def verdict(p: Policy, caller: Caller = POD, secret: SecretMeta | None = SECRET, key_id: Any = KEY_A) -> str:
    """`ok`, the verdict of the audit line, or the name of the error."""
    try:
        may_unseal(p, "ns", secret, key_id, caller, NOW)
    except NotAllowed as error:
        assert str(error) == "not authorised to unseal this Secret"  # the caller learns no more
        return error.verdict
    except KeyshredError as error:
        return type(error).__name__
    return "ok"


@pytest.mark.parametrize(
    ("subjects", "caller", "expected"),
    [
        ([], POD, "ok"),
        ([], UNBOUND, Verdict.NOT_BOUND),
        ([], FOREIGN, Verdict.NOT_BOUND),
        # No caller is like this, for pods refer to Secrets of their own namespace: belt and braces.
        ([], Caller("other", "app", refers=True), Verdict.NOT_AUTHORIZED),
        ([subject()], POD, "ok"),
        ([subject()], UNBOUND, Verdict.NOT_BOUND),
        ([subject(name="else")], POD, Verdict.NOT_AUTHORIZED),
        ([subject(namespace="other")], POD, Verdict.NOT_AUTHORIZED),
        ([subject(namespace="other")], FOREIGN, Verdict.NOT_BOUND),
        ([subject(namespace="other")], Caller("other", "app", refers=True), Verdict.NOT_AUTHORIZED),
        ([subject(allow=True)], UNBOUND, "ok"),
        ([subject(allow=True)], POD, "ok"),
        ([subject("other", allow=True)], FOREIGN, "ok"),
        ([subject("other", allow=True)], POD, Verdict.NOT_AUTHORIZED),
        ([subject(name="else", allow=True)], UNBOUND, Verdict.NOT_BOUND),
        ([subject(name="else"), subject()], POD, "ok"),
    ],
)
def test_subjects(subjects: list[dict[str, Any]], caller: Caller, expected: str) -> None:
    assert verdict(policy(root_key(), authorization(subjects=subjects)), caller) == expected


@pytest.mark.parametrize(
    "spec",
    [
        {"expirationTime": PAST},
        {"deleting": True},
        {"operations": ["Seal"]},
        {"namespaces": {"names": ["other"]}},
        {"key_id": KEY_B},
        {"key_id": None},
        {"root_key": "rk2"},
        {"secrets": {"exclude": {"names": ["s"]}}},
    ],
)
def test_what_grants_nothing(spec: dict[str, Any]) -> None:
    assert verdict(policy(root_key(), root_key("rk2", KEY_B), authorization(**spec))) == Verdict.NOT_AUTHORIZED


def test_one_authorization_of_several_is_enough() -> None:
    refusing = authorization("first", subjects=[subject(name="else")])
    assert verdict(policy(root_key(), refusing, authorization())) == "ok"


def test_the_right_to_one_root_key_opens_nothing_under_another() -> None:
    """Who may use only rk2 could otherwise name rk2 and give the key ID of rk."""
    forged = authorization(root_key="rk2", key_id=KEY_A)
    assert verdict(policy(root_key(), root_key("rk2", KEY_B), forged)) == Verdict.NOT_AUTHORIZED


@pytest.mark.parametrize("namespaces", [{}, {"ns": {}}, {"ns": {LABEL_SEALING: "x"}}])
def test_only_in_sealing_namespaces(namespaces: dict[str, dict[str, str]]) -> None:
    assert verdict(policy(root_key(), authorization(), namespaces=namespaces)) == Verdict.NOT_SEALING


@pytest.mark.parametrize("namespace", ["keyshred", "kube-system"])
def test_never_in_our_own_or_the_systems_namespaces(namespace: str) -> None:
    p = policy(root_key(), authorization(namespaces={"names": [namespace]}), namespaces={namespace: SEALING})
    with pytest.raises(NotAllowed):
        may_unseal(p, namespace, SECRET, KEY_A, Caller(namespace, "app", refers=True), NOW)


@pytest.mark.parametrize("state", KeyState)
def test_key_states(state: KeyState) -> None:
    key, expected = STATES[state]
    assert verdict(policy(key, authorization())) == expected


@pytest.mark.parametrize("state", KeyState)
def test_who_has_no_rights_does_not_learn_the_state(state: KeyState) -> None:
    p = policy(STATES[state][0], authorization(), records={KEY_A: state})
    assert verdict(p, UNBOUND) == Verdict.NOT_BOUND


@pytest.mark.parametrize("key", [[], [root_key()]], ids=["RootKey gone", "RootKey there"])
def test_a_destroyed_key_is_gone_whatever_the_root_key_says(key: list[dict[str, Any]]) -> None:
    p = policy(*key, authorization(), records={KEY_A: KeyState.DESTROYED})
    with pytest.raises(KeyGone):
        may_unseal(p, "ns", SECRET, KEY_A, POD, NOW)


@pytest.mark.parametrize("state", [KeyState.ACTIVE, None])
def test_no_root_key_holds_it(state: KeyState | None) -> None:
    assert verdict(policy(authorization(), records={KEY_A: state} if state else {})) == Verdict.KEY_UNKNOWN


@pytest.mark.parametrize("key", [[], [root_key()]], ids=["RootKey gone", "RootKey there"])
def test_a_grace_period_unseals_nothing(key: list[dict[str, Any]]) -> None:
    p = policy(*key, authorization(), records={KEY_A: KeyState.PENDING_DESTRUCTION})
    with pytest.raises(KeyNotUsable, match="PendingDestruction"):
        may_unseal(p, "ns", SECRET, KEY_A, POD, NOW)
    assert verdict(p, UNBOUND) == Verdict.NOT_BOUND


def test_a_key_that_was_made_anew_under_the_name() -> None:
    assert verdict(policy(root_key(key_id=KEY_B), authorization())) == Verdict.KEY_UNKNOWN


@pytest.mark.parametrize(
    ("secret", "caller", "expected"),
    [
        (None, POD, "ok"),
        (None, UNBOUND, Verdict.NOT_BOUND),
        (SECRET, POD, "ok"),
        (SECRET, UNBOUND, Verdict.NOT_BOUND),
        # As the kubelet would give it, whatever its type and labels.
        (SecretMeta("s", "kubernetes.io/dockercfg", {}), POD, "ok"),
        (SecretMeta("excluded", "Opaque", {}), POD, "ok"),
    ],
)
def test_what_is_not_sealed_follows_the_same_rules(secret: SecretMeta | None, caller: Caller, expected: str) -> None:
    p = policy(root_key(), authorization(secrets={"exclude": {"names": ["excluded"]}}))
    assert verdict(p, caller, secret, None) == expected


def test_what_is_not_meant_to_be_sealed_is_the_pods_whoever_it_runs_as() -> None:
    """Subjects are for what a KeyAuthorization covers; the rest a pod could mount before keyshred came."""
    spec: dict[str, Any] = {"subjects": [subject(name="another")], "secrets": {"exclude": {"names": ["excluded"]}}}
    p = policy(root_key(), authorization(**spec))
    assert verdict(p, POD, SecretMeta("excluded", "Opaque", {}), None) == "ok"
    assert verdict(p, POD, SECRET, None) == verdict(p, POD, SECRET) == Verdict.NOT_AUTHORIZED
    assert verdict(p, UNBOUND, SecretMeta("excluded", "Opaque", {}), None) == Verdict.NOT_AUTHORIZED


def test_what_is_not_sealed_in_a_namespace_that_nothing_selects_any_more() -> None:
    p = policy(namespaces={"ns": {LABEL_SEALING: "retained"}})
    assert verdict(p, POD, SECRET, None) == verdict(p, POD, None, None) == "ok"
    assert verdict(p, POD, SECRET) == verdict(p, UNBOUND, SECRET, None) == Verdict.NOT_AUTHORIZED


@pytest.mark.parametrize("mode", ["Enforce", "Release"])
def test_names_that_every_authorization_leaves_out(mode: str) -> None:
    one = authorization(secrets={"exclude": {"names": ["a", "b"]}})
    two = authorization(name="two", mode=mode, secrets={"exclude": {"names": ["b", "c"]}}, expirationTime=PAST)
    elsewhere = authorization(name="three", namespaces={"names": ["elsewhere"]})
    preview = authorization(name="four", mode="Preview")
    assert policy(root_key(), one, elsewhere, preview).left_out("ns") == {"a", "b"}
    assert policy(root_key(), one, two).left_out("ns") == {"b"}
    assert policy(root_key()).left_out("ns") == frozenset()


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        (SECRET, "ok"),
        (SecretMeta("excluded", "Opaque", {}), Verdict.NOT_AUTHORIZED),
        (SecretMeta("s", "kubernetes.io/dockercfg", {}), Verdict.NOT_AUTHORIZED),
    ],
)
def test_without_a_pod_only_what_is_selected(secret: SecretMeta, expected: str) -> None:
    spec: dict[str, Any] = {"subjects": [subject(allow=True)], "secrets": {"exclude": {"names": ["excluded"]}}}
    assert verdict(policy(root_key(), authorization(**spec)), UNBOUND, secret, None) == expected
