import pytest

from helpers_tools import load_tool


@pytest.fixture(scope="module")
def tool():
    return load_tool("run_readme")


def texts(tool, markdown):
    return [command.text for command in tool.extract(markdown, "page.md")]


def test_console_blocks_hold_commands_and_output(tool):
    page = "# Title\n\n```console\n$ echo one\none\n$ echo \\\n> two\ntwo\n```\n"
    assert texts(tool, page) == ["echo one", "echo \\\ntwo"]
    assert [c.line for c in tool.extract(page, "page.md")] == [4, 6]


def test_shell_blocks_hold_commands_alone(tool):
    page = "```sh\n# why\necho one\n\necho a \\\n  b\n```\n~~~bash\necho two\n~~~\n"
    assert texts(tool, page) == ["echo one", "echo a \\\n  b", "echo two"]


def test_a_here_document_belongs_to_its_command(tool):
    page = "```sh\ncat > a.py <<'END'\n# kept\nprint(1)\nEND\ncat a.py\n```\n"
    assert texts(tool, page) == [
        "cat > a.py <<'END'\n# kept\nprint(1)\nEND",
        "cat a.py",
    ]


def test_other_languages_and_indented_fences(tool):
    page = "```python\nx = 1\n```\n```\n$ no\n```\n1. item\n\n   ```sh\n   ls\n   ```\n"
    assert texts(tool, page) == ["ls"]


def test_a_fence_inside_a_longer_fence_is_text(tool):
    page = "````markdown\n```sh\nfalse\n```\n````\n```sh\ntrue\n```\n"
    assert texts(tool, page) == ["true"]


def test_a_mark_applies_to_the_next_block_only(tool):
    page = "<!-- not-run: needs a GPU -->\n\n```sh\na\n```\n```sh\nb\n```\n"
    assert [c.not_run for c in tool.extract(page, "p")] == ["needs a GPU", ""]


def test_a_mark_does_not_reach_over_text(tool):
    page = "<!-- not-run: needs a GPU -->\nText.\n\n```sh\na\n```\n"
    assert tool.extract(page, "p")[0].not_run == ""


@pytest.mark.parametrize(
    "command",
    [
        "git clone https://example.org/x",
        "make demo",
        "pip install cibench",
        "python3 -m pip install -e .",
        ".venv/bin/pip install .",
        ".venv/bin/python -m venv x",
    ],
)
def test_commands_that_set_up_need_a_mark(tool, command):
    page = f"```sh\n{command}\n```\n"
    with pytest.raises(tool.DocumentError, match=r"p\.md:2: expected <!-- not-run"):
        tool.extract(page, "p.md")
    marked = tool.extract("<!-- not-run: sets up -->\n" + page, "p.md")
    assert [c.not_run for c in marked] == ["sets up"]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("```sh\nls\n", "p.md:1: expected the end of the block"),
        ("<!-- not-run: -->\n```sh\nls\n```\n", "expected a reason"),
        ("```sh\nls \\\n```\n", "to end a command"),
        ("```sh\ncat <<END\n```\n", "expected 'END' to end a command"),
    ],
)
def test_malformed_pages(tool, page, message):
    with pytest.raises(tool.DocumentError, match=message):
        tool.extract(page, "p.md")


def test_commands_run_in_order_in_a_scratch_folder(tool, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\nmkdir inner\ncd inner\necho x > file\n```\n"
        "<!-- not-run: never -->\n```sh\nfalse\n```\n"
        "```console\n$ test -s file && test $(basename $PWD) = inner\n"
        '$ python -c "import cibench"\n```\n'
    )
    assert tool.main([str(page)]) == 0
    printed = capsys.readouterr().out
    assert printed.count(" s ") == 5
    assert "not run" in printed
    assert "(never)" in printed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.md"]


def test_the_first_failure_ends_the_run_with_its_output(tool, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("```sh\ntrue\necho said; (exit 3)\necho later\n```\n")
    assert tool.main([str(page)]) == 1
    out, err = capsys.readouterr()
    assert "page.md:3: expected exit status 0, got 3: echo said" in err
    assert err.endswith("said\n\n")
    assert "later" not in out


def test_a_command_that_does_not_end(tool, tmp_path):
    command = tool.Command("echo begun; exec sleep 60", "p.md", 1)
    with pytest.raises(tool.DocumentError, match=r"within 0\.5 s: echo begun"):
        tool.run([command], tmp_path / "x", timeout=0.5)


def test_standard_input_is_empty(tool, tmp_path):
    tool.run([tool.Command("! read x", "p.md", 1)], tmp_path / "x", timeout=5)


def test_list_runs_nothing(tool, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("```sh\nexit 1\n```\n")
    assert tool.main(["--list", str(page)]) == 0
    assert "page.md:2: exit 1" in capsys.readouterr().out


def test_the_documents_can_be_extracted(tool):
    for path in tool.documents():
        if path.exists():
            tool.extract(path.read_text(encoding="utf-8"), path.name)
