"""Configuration files: what is read, what is refused and in which line; `load` gives back what `save` wrote."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farabio_like import ConfigError
from farabio_like.config import Config, get, load, put, save
from farabio_like.config.files import read

WORDS = ["yes", "012", "1:30", "2020-01-01", "null", "~", "", "<<", "=", "1e-3", "0x1F", ".inf", "true", "???", "\t"]
WORDS += ["${a}", "\\${a}", "a\\\\${b}", "$", "${", "a\\", "- a", "# x", "a: b", "!x", "&a", "*a", "|", "\n", "\r\n"]
WORDS += ["\x85", "\u2028", "\ufeff", "\x00", "012.5", "1_000", "0o17", "+1", "--- a", "...", "é", "😀"]
TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(WORDS)
LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
PLAIN = st.recursive(LEAF, lambda c: st.lists(c, max_size=3) | st.dictionaries(TEXT, c, max_size=3), max_leaves=8)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(tmp_path, text, suffix=".yml"):
    path = tmp_path / f"c{suffix}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
@QUICK
@given(data=st.dictionaries(TEXT, PLAIN, max_size=4) | st.lists(PLAIN, max_size=4))
def test_load_gives_back_what_save_wrote(tmp_path, suffix, data):
    path = tmp_path / f"c{suffix}"
    save(data, path)
    assert repr(load(path)) == repr(data)


def test_whole_numbers_as_keys_and_a_tuple_and_a_config(tmp_path):
    save({1: "a", "1": ("b", 2)}, tmp_path / "c.yml")
    assert load(tmp_path / "c.yml") == {1: "a", "1": ["b", 2]}
    save(Config({"lr": 0.1, "data": {"size": 3}}), tmp_path / "c.json")
    assert load(tmp_path / "c.json") == {"lr": 0.1, "data": {"size": 3}}


def test_utf_8_is_kept(tmp_path):
    for suffix in (".yml", ".json"):
        save({"größe": "naïve 😀"}, tmp_path / f"c{suffix}")
        assert "größe" in (tmp_path / f"c{suffix}").read_text(encoding="utf-8")
        assert "naïve 😀" in (tmp_path / f"c{suffix}").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": object}, "a is <class 'object'>, a type; expected plain data"),
        ({"a": [1, {1, 2}]}, "a\\[1\\] is {1, 2}, a set; expected plain data"),
        ({None: 1}, "the configuration has the key None, a NoneType"),
        ({"a": {True: 1}}, "a has the key True, a bool"),
        ({"a": "\ud800"}, "is no text that UTF-8 can hold"),
        (3, "save\\(\\) got a int; expected a dict or a list"),
    ],
)
def test_what_cannot_be_saved(tmp_path, value, said):
    with pytest.raises(ConfigError, match=said):
        save(value, tmp_path / "c.yml")
    assert not list(tmp_path.iterdir())


def test_what_holds_itself_cannot_be_saved(tmp_path):
    ring = {}
    ring["a"] = [ring]
    with pytest.raises(ConfigError, match="holds itself"):
        save(ring, tmp_path / "c.yml")


def test_json_has_text_as_keys_alone(tmp_path):
    with pytest.raises(ConfigError, match="has the key 1, a int; expected text"):
        save({1: 2}, tmp_path / "c.json")


def test_words_are_what_they_say(tmp_path):
    text = "a: yes\nb: 012\nc: 1:30\nd: 2020-01-02\ne: on\nf: 1_000\nlr: 1e-3\nh: 0x10\ni: .5\nj: ~\nk: True\nl: .inf\n"
    found = load(written(tmp_path, text))
    words = {"a": "yes", "b": "012", "c": "1:30", "d": "2020-01-02", "e": "on", "f": "1_000"}
    assert found == {**words, "lr": 0.001, "h": 16, "i": 0.5, "j": None, "k": True, "l": math.inf}


def test_merge_keys_and_anchors(tmp_path):
    text = "base: &b {lr: 1, wd: 2}\nx:\n  lr: 3\n  <<: *b\ny:\n  <<: [*b, {lr: 5, z: 1}]\nw: *b\n"
    found = load(written(tmp_path, text))
    assert (found["x"], found["y"], found["w"]) == ({"lr": 3, "wd": 2}, {"lr": 1, "wd": 2, "z": 1}, {"lr": 1, "wd": 2})
    put(found, "w", "lr", value=9)
    assert found["base"]["lr"] == 1  # a copy, not the same


def test_bom_and_crlf(tmp_path):
    assert load(written(tmp_path, "\ufeffa: 1\r\nb:\r\n  - 2\r\n")) == {"a": 1, "b": [2]}
    assert load(written(tmp_path, '\ufeff{"a": 1}\r\n', ".json")) == {"a": 1}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}"])
def test_an_empty_file_holds_nothing(tmp_path, text):
    assert load(written(tmp_path, text)) == {}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
DOUBLED = "a0: xxxxxxxxxx\n" + "".join(f"a{i + 1}: '${{a{i}}}${{a{i}}}'\n" for i in range(40))


@pytest.mark.parametrize(
    ("text", "suffix", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", ".yml", "c.yml:3: the key 'a' is there already, in line 1."),
        ('{"a": 1,\n"b": {"c": 1,\n"c": 2}}', ".json", "c.json:3: the key 'c' is there already, in line 2."),
        ("a:\n\tb: 1\n", ".yml", "c.yml:2: a tab; expected spaces."),
        (BOMB, ".yml", "c.yml:6: aliases repeat more than 100000 parts."),
        ("[" * 10_000_000, ".yml", "c.yml: it has more than 8388608 characters."),
        ("{a: " * 1_000_000, ".yml", "c.yml:1: more than 100 lists and dicts in one another."),
        ("[" * 7_000_000, ".json", "c.json: more than 100 lists and dicts in one another."),
        ("a: &x [*x]", ".yml", "c.yml:1: there is no whole &x before *x."),
        ("a: !!python/object/apply:os.system [ls]", ".yml", "the tag '!!python/object/apply:os.system'"),
        ("a: 1\n---\nb: 2", ".yml", "c.yml:3: a second document begins; expected one in a file."),
        ("3", ".yml", "c.yml:1: it holds 3 alone; expected keys and values."),
        ("true: 1", ".yml", "c.yml:1: the key 'true'; expected text: in quotes, if that is meant."),
        ("x: 1e999", ".yml", "c.yml:1: 1e999 is too large for a number; infinity is written .inf."),
        ("x: " + "1" * 5000, ".yml", "c.yml:1: a number of 5000 digits."),
        ('{"x": 1e999}', ".json", "c.json: 1e999 is too large for a number."),
        ('{"a": 1,}', ".json", "c.json:1: Expecting property name enclosed in double quotes, in column 9."),
        ("a: [1, 2", ".yml", "c.yml:2: did not find expected ',' or ']'."),
        ("a: \x07", ".yml", "c.yml:1: the character \\U00000007."),
        (b"a: 1\nb: \xe9\n", ".yml", "c.yml:2: it is no UTF-8. Save it in that encoding."),
        ("a: ${c}\nb: 3", ".yml", "c.yml:1: a: Interpolation key 'c' not found."),
        ("b: 3\na: ${oc.env:NO_SUCH_NAME}", ".yml", "Environment variable 'NO_SUCH_NAME' not found"),
        ("a: ${b}\nb: ${a}", ".yml", "c.yml:1: a: Recursive interpolation detected."),
        (DOUBLED, ".yml", "c.yml: with what they stand for, its values have more than 8388608 characters."),
        ("a: 1", ".txt", "c.txt ends in '.txt'; expected one of .yaml, .yml, .json."),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, str | bytes) else None,
)
def test_what_is_refused_and_where(tmp_path, text, suffix, said):
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text, suffix))
    assert said in str(caught.value)


def test_a_file_that_is_not_there_a_folder_and_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        load("nowhere.yml")
    (tmp_path / "d.yml").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        load("d.yml")
    with pytest.raises(ConfigError, match="got no files"):
        load()


def test_several_files_are_merged_in_order(tmp_path, monkeypatch):
    (tmp_path / "a.yml").write_text("lr: 1\nstages: [1, 2]\nmodel: {width: 3, depth: 2}\nname: ${model.width}-${who}\n")
    (tmp_path / "b.json").write_text('{"stages": [3], "model": {"width": 8}, "who": "${oc.env:WHO,nobody}"}')
    found = load("a.yml", "b.json")
    assert found == {"lr": 1, "stages": [3], "model": {"width": 8, "depth": 2}, "name": "8-nobody", "who": "nobody"}
    monkeypatch.setenv("WHO", "me")
    assert load("a.yml", "b.json")["name"] == "8-me"
    _, places, as_written = read("a.yml", "b.json", overrides=["lr=2"])
    assert places.of("model", "width") == "b.json:1" and places.of("model", "depth") == "a.yml:3"
    assert places.of("lr") == "override 'lr=2'" and as_written["name"] == "${model.width}-${who}"


OVERRIDDEN = {"stages": [{"lr": 1}, {"lr": 2}], "settings": {"num_epochs": 3, "seed": None}, "classes": {1: "a"}}


@pytest.mark.parametrize(
    ("override", "keys", "value"),
    [
        ("stages.0.lr=1e-3", ("stages", 0, "lr"), 0.001),
        ("+stages.2.lr=5", ("stages", 2, "lr"), 5),
        ("+settings.new.deep=[1, {a: b}]", ("settings", "new", "deep"), [1, {"a": "b"}]),
        ("settings.num_epochs=null", ("settings", "num_epochs"), None),
        ("settings.num_epochs=", ("settings", "num_epochs"), ""),
        ("settings.num_epochs='7'", ("settings", "num_epochs"), "7"),
        ("settings.seed=yes", ("settings", "seed"), "yes"),
        ("settings.seed=a=b: #c", ("settings", "seed"), "a=b: #c"),
        ("settings.seed=${settings.num_epochs}", ("settings", "seed"), 3),
        ("settings={}", ("settings",), {}),
        ("classes.1=b", ("classes", 1), "b"),
        ("~stages.0", ("stages",), [{"lr": 2}]),
    ],
)
def test_overrides(tmp_path, override, keys, value):
    save(OVERRIDDEN, tmp_path / "c.yml")
    found = load("c.yml", overrides=[override])
    for key in keys:
        found = found[key]
    assert found == value and type(found) is type(value)


def test_an_override_deletes(tmp_path):
    save(OVERRIDDEN, tmp_path / "c.yml")
    assert "settings" not in load("c.yml", overrides=["~settings"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("settings.num_epoch=3", "Did you mean 'settings.num_epochs'? To add it: +settings.num_epoch=..."),
        ("stages.5.lr=1", "stages is a list of 2, which has no '5'; expected an index from 0 on."),
        ("stages.-1.lr=1", "stages is a list of 2, which has no '-1'; expected an index from 0 on."),
        ("+stages.4.lr=1", "stages is a list of 2, which has no '4'"),
        ("~stages.9", "stages is a list of 2, which has no '9'"),
        ("~setings", "there is no setings. Did you mean 'settings'?"),
        ("+settings.seed=1", "settings.seed is there already. To change it: settings.seed=1"),
        ("settings.num_epochs.x=1", "settings.num_epochs is 3, which holds no 'x'."),
        ("settings", "expected key=value, +key=value or ~key"),
        ("~settings=1", "expected key=value, +key=value or ~key"),
        ("a..b=1", "expected key=value, +key=value or ~key"),
        ("settings={a: 1", "did not find expected ',' or '}'"),
    ],
)
def test_overrides_that_are_mistakes(tmp_path, override, said):
    save(OVERRIDDEN, tmp_path / "c.yml")
    with pytest.raises(ConfigError) as caught:
        load("c.yml", overrides=[override])
    assert str(caught.value).startswith(f"override {override!r}: ") and said in str(caught.value)


class Unhashable:
    __hash__ = None


class Raising:
    def __hash__(self):
        raise RuntimeError


NESTED = {"a": [{"b": 0}, None], "text": "abc", "none": None, 1: "one", "zero": 0, "false": False}


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ((), NESTED),
        (("a", 0, "b"), 0),
        (("zero",), 0),
        (("false",), False),
        ((1,), "one"),
        (("b",), "default"),  # missing
        (("a", 2), "default"),  # past the end
        (("a", -1), "default"),  # negative
        (("a", "0"), "default"),  # text in a list
        (("a", True), "default"),  # no index
        (("a", 0.0), "default"),
        (("a", slice(None)), "default"),
        (("a", 1), "default"),  # None
        (("none",), "default"),
        (("none", "x"), "default"),
        (("text", 0), "default"),  # no container
        (("zero", "x"), "default"),
        ((Unhashable(),), "default"),
        ((Raising(),), "default"),
        (([],), "default"),
        ((None,), "default"),
    ],
)
def test_get(keys, value):
    assert get(NESTED, *keys, default="default") == value


def test_get_of_other_containers():
    assert get(Config({"a": {"b": 1}}), "a", "b") == 1 and get(Config({}), "a") is None
    assert get((1, (2,)), 1, 0) == 2 and get(3, "a") is None and get(None, default=4) == 4


def test_put_makes_what_is_missing_and_pads():
    config = {}
    assert put(config, "stages", 2, "lr", value=0.1) is config
    assert config == {"stages": [None, None, {"lr": 0.1}]}
    put(config, "stages", 0, value="x")
    put(config, "stages", 1, 1, value=[])
    assert config == {"stages": ["x", [None, []], {"lr": 0.1}]}
    assert put([], 1000, value=1) == [None] * 1000 + [1]
    assert put({"a": None}, "a", "b", value=1) == {"a": {"b": 1}}
    assert put(Config({"a": {"b": 1}}), "a", "c", value=2).to_dict() == {"a": {"b": 1, "c": 2}}


@pytest.mark.parametrize(
    ("config", "keys", "said"),
    [
        ({}, (), "got no keys"),
        ({"a": 1}, ("a", "b"), r"\['a'\] is 1, no dict and no list. To replace it: force=True"),
        ({"a": "text"}, ("a", 0), "no dict and no list"),
        ({"a": [1]}, ("a", "b"), r"\['a'\] is a list, and 'b' is no index. To replace the list by a dict: force=True"),
        ({}, ("a", 1001), "the index 1001 is more than 1000 past the end"),
        ({"a": {}}, ("a", "b", 5000, "c"), "the index 5000 is more than 1000 past the end"),
        ({"a": [1]}, ("a", -1), "the index -1 is negative"),
        ([1], ("a",), "the container is a list, and 'a' is no index"),
        ({"a": (1,)}, ("a", 0), "no dict and no list"),
        ([1], (True,), "True is no index"),
    ],
)
def test_put_refuses_and_changes_nothing(config, keys, said):
    before = repr(config)
    with pytest.raises(ConfigError, match=said):
        put(config, *keys, value=1)
    assert repr(config) == before


def test_put_with_force():
    assert put({"a": 1}, "a", "b", value=2, force=True) == {"a": {"b": 2}}
    assert put({"a": [1]}, "a", "b", value=2, force=True) == {"a": {"b": 2}}
    assert put({"a": {"b": 1}}, "a", value=3) == {"a": 3}
