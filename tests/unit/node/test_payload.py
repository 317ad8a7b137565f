"""Which files a volume has: the cases of the kubelet's MakePayload and collectData, and files for variables."""

from collections.abc import Mapping

import pytest

from keyshred.errors import NotFound, Refused
from keyshred.node import payload
from keyshred.node.payload import File, build
from keyshred.policy.volumes import Files, Item, Source, Variable, Variables

DB = {"user": b"admin", "password": b"hunter2"}


def test_without_items_every_value_is_under_its_key() -> None:
    content = Files((Source("db"),), 0o640)
    assert build(content, {"db": DB}) == {"user": File(b"admin", 0o640), "password": File(b"hunter2", 0o640)}


def test_an_empty_list_of_items_is_none_as_for_the_kubelet() -> None:
    assert build(Files((Source("db", ()),)), {"db": DB}) == build(Files((Source("db"),)), {"db": DB})


def test_items_choose_paths_and_modes() -> None:
    items = (Item("password", "a/b/c"), Item("password", "d", 0o400), Item("user", "zero", 0))
    assert build(Files((Source("db", items),)), {"db": DB}) == {
        "a/b/c": File(b"hunter2", 0o644),
        "d": File(b"hunter2", 0o400),
        "zero": File(b"admin", 0),
    }


def test_the_later_item_wins_a_path() -> None:
    content = Files((Source("db", (Item("user", "x"), Item("password", "x", 0o600))),))
    assert build(content, {"db": DB}) == {"x": File(b"hunter2", 0o600)}


def test_the_later_source_wins_a_path() -> None:
    content = Files((Source("db"), Source("more", optional=True), Source("more", (Item("a", "user"),))))
    assert build(content, {"db": DB, "more": {"a": b"b"}}) == {
        "user": File(b"b", 0o644),
        "password": File(b"hunter2", 0o644),
        "a": File(b"b", 0o644),
    }


@pytest.mark.parametrize("items", [None, (), (Item("password", "p"),)])
@pytest.mark.parametrize("values", [{"db": None}, {}])
def test_a_missing_secret_is_an_error_unless_optional(
    items: tuple[Item, ...] | None, values: Mapping[str, None]
) -> None:
    with pytest.raises(NotFound, match=r"^Secret db does not exist$"):
        build(Files((Source("db", items),)), values)
    assert build(Files((Source("db", items, optional=True),)), values) == {}


def test_a_missing_key_is_an_error_unless_optional() -> None:
    items = (Item("password", "p"), Item("passwd", "q"))
    with pytest.raises(NotFound, match=r"^Secret db has no key passwd$"):
        build(Files((Source("db", items),)), {"db": DB})
    assert build(Files((Source("db", items, optional=True),)), {"db": DB}) == {"p": File(b"hunter2", 0o644)}


def test_a_secret_without_values_gives_no_files() -> None:
    assert build(Files((Source("db"),)), {"db": {}}) == {}


def test_a_value_is_not_in_the_text_of_a_file() -> None:
    assert "hunter2" not in repr(File(b"hunter2", 0o644))


# --- variables


class EnvFile:
    """Stands in for keyshred.policy.env_file."""

    @staticmethod
    def unfit(value: bytes) -> str:
        return "it has a quote" if b"'" in value else ""

    @staticmethod
    def render(value: bytes) -> bytes:
        return b"VALUE=" + value


@pytest.fixture(autouse=True)
def _env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "env_file", EnvFile)


def test_each_variable_is_a_file_of_its_own() -> None:
    content = Variables((Variable("db", "user"), Variable("db", "password", optional=True), Variable("db", "user")))
    assert build(content, {"db": DB}) == {
        "db/user": File(b"VALUE=admin", 0o444),
        "db/password": File(b"VALUE=hunter2", 0o444),
    }


@pytest.mark.parametrize("values", [{"db": None}, {"db": {}}, {}])
def test_a_missing_variable_is_an_empty_file_where_optional(values: Mapping[str, Mapping[str, bytes] | None]) -> None:
    assert build(Variables((Variable("db", "user", optional=True),)), values) == {"db/user": File(b"", 0o444)}
    with pytest.raises(NotFound, match=r"^Secret db "):
        build(Variables((Variable("db", "user"),)), values)


@pytest.mark.parametrize("optional", [False, True])
def test_a_value_that_fits_no_variable_is_refused_without_it(optional: bool) -> None:
    with pytest.raises(Refused) as caught:
        build(Variables((Variable("db", "user", optional),)), {"db": {"user": b"o'brien"}})
    assert str(caught.value) == "the value of key user of Secret db fits no variable: it has a quote"
