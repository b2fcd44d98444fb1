"""The public surface."""

import subprocess
import sys

import pytest

import langchain_amulet


def test_all_is_sorted_complete_and_importable():
    assert langchain_amulet.__all__ == sorted(langchain_amulet.__all__)
    assert (
        set(langchain_amulet._MODULES) | {"__version__"} == set(langchain_amulet.__all__) == set(dir(langchain_amulet))
    )
    for name in langchain_amulet.__all__:
        assert getattr(langchain_amulet, name) is not None


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'ChatAmulett'"):
        _ = langchain_amulet.ChatAmulett


def test_importing_the_package_imports_neither_torch_nor_an_extra():
    heavy = {"torch", "transformers", "langgraph", "gguf", "accelerate"}
    script = f"import langchain_amulet, sys; print(sorted({heavy} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
