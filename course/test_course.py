"""Tests of the grader: what a teacher would notice if it broke."""
import ast
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import grade
import mistakes

NAMED = [(name, *row.split(" | ")) for name in grade.BODIES
         for row in mistakes.NAMED.get(name, "").strip().splitlines()]
STYLES = {   # as someone may write them, with helpers and names of their own
    "mse": "return mean((f - y)**2), 2 * (f - y) / size(f), lambda Rf: 2 * Rf / size(f)",
    "adapt": """if steps == 0:
        return theta.copy()
    rates = inner_rates(alpha, steps, theta)
    before = adapt(model, theta, x, y, rates[:-1], steps - 1)
    return before - rates[-1] * model.linearize(before, x, y)[1]"""}
HELPERS = """
size = lambda a: a.shape[-2] * a.shape[-1]
mean = lambda a: a.sum((-2, -1)) / size(a)"""


def filled(**bodies):
    """Return the sheet with bodies written."""
    lines = (grade.sheet("write") + HELPERS).split("\n")
    for name, body in bodies.items():
        hole = [node.body[-1].lineno for node in ast.walk(ast.parse("\n".join(lines)))
                if getattr(node, "name", "") == name][0] - 1
        lines[hole] = lines[hole].replace("raise NotImplementedError", body)
    return "\n".join(lines)


def messages(*jobs):
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda job: grade.judged(job[1], 9, job[0]), jobs))


def test_every_named_mistake_is_caught_and_named():
    jobs = []
    for name, label, *pairs in NAMED:
        function = mistakes.function_of(name, ast.parse(mistakes.SOURCE))
        text = ast.get_source_segment(mistakes.SOURCE, function)
        jobs.append((name, mistakes.SOURCE.replace(text, mistakes.edited(text, pairs))))
    assert [row for row, found in zip(NAMED, messages(*jobs)) if row[1] not in found] == []


def test_a_body_in_any_style_is_right_whatever_the_others_are_like():
    wrong = filled(**STYLES).replace("2 * (f - y)", "2.5 * (f - y)")
    jobs = [("mse", filled(**STYLES)), ("adapt", wrong), ("mse", wrong), ("hvp", wrong)]
    assert messages(*jobs) == ["", "", "δ: 1.25 times what it should be", "not written yet"]


@pytest.mark.parametrize("name, body, words", (
    ("relu", "import os; os._exit(0)", "it ends the process"), ("relu", "exit()", "SystemExit"),
    ("relu", "while True: pass", "not done after 9 s: an endless loop?"),
    ("relu", "return 1", "expected σ(z), σ′(z), σ″(z), got int"),
    ("relu", "return z[0], z, z", "an axis is lost"), ("relu", "return z / 0, z, z", "not finite"),
    ("relu", "return z, z, nothing", ", `return z, z, nothing`: NameError: name 'nothing'"),
    ("hvp", "self.linearize(theta, x, y)", "hvp may not call linearize or _forward")))
def test_what_a_body_may_do(name, body, words):
    assert words in messages((name, filled(**{name: body})))[0]


def test_the_command_marks_files_of_any_encoding_and_writes_a_sheet(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(grade, "judged", lambda source, seconds, name: "θ" if name == "hvp" else "")
    paths = [str(tmp_path / name) for name in ("utf-8-sig", "utf-16", "latin-1")]
    for path in paths:
        Path(path).write_bytes("x = 'é'".encode(Path(path).name))
    assert grade.main(paths) == 1
    rows = capsys.readouterr().out.split("\n")[-4:-1]
    assert [row.split()[-1] for row in rows] == ["11", "11", "0"]   # latin-1 is not declared
    grade.main([paths[0], "--json", paths[0] + ".json"])
    tests = json.loads(Path(paths[0] + ".json").read_text(encoding="utf-8"))["tests"]
    assert [test["score"] for test in tests] == [name != "hvp" for name in grade.BODIES]
    command = ["--sheet", "derive", "--out", paths[0] + ".py"]
    assert grade.main(command) == 0
    text = Path(paths[0] + ".py").read_text(encoding="utf-8")
    assert (text.count("raise NotImplementedError"), text.count("= ?")) == (12, 21)
    with pytest.raises(FileExistsError):
        grade.main(command)
