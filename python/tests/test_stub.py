"""What the stub declares is what the extension has."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import forebay
from forebay import _forebay


def names(body: list[ast.stmt]) -> set[str]:
    found = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def public(thing: object) -> set[str]:
    return {name for name in vars(thing) if not name.startswith("_")}


def test_the_stub_names_what_the_extension_has() -> None:
    stub = ast.parse(Path(forebay.__file__).with_name("_forebay.pyi").read_text())
    assert names(stub.body) == public(_forebay)
    for node in stub.body:
        if isinstance(node, ast.ClassDef):
            real = getattr(_forebay, node.name)
            declared = {name for name in names(node.body) if not name.startswith("_")}
            assert declared == public(real), node.name
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.decorator_list:
                    wanted = [a.arg for a in method.args.args + method.args.kwonlyargs][1:]
                    target = real if method.name == "__new__" else getattr(real, method.name)
                    found = [name for name in inspect.signature(target).parameters if name != "self"]
                    assert found == wanted, (node.name, method.name)


def test_everything_public_is_explained_and_typed() -> None:
    assert Path(forebay.__file__).with_name("py.typed").exists()
    for name in forebay.__all__:
        assert hasattr(forebay, name)
        thing = getattr(forebay, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), name


def test_importing_it_needs_numpy_alone() -> None:
    import subprocess
    import sys

    code = (
        "import sys, forebay; "
        "print([name for name in ('torch', 'transformers', 'jax', 'lightning') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
