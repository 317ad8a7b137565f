"""pytest takes two test files of one module name for one file, and runs the first twice: no error says so."""

from pathlib import Path


def test_every_folder_of_tests_is_a_package() -> None:
    tests = Path(__file__).parents[1]
    folders = {file.parent for file in tests.rglob("test_*.py")}
    folders |= {parent for folder in folders for parent in folder.parents if parent.is_relative_to(tests)}
    assert len(folders) > 10
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]
