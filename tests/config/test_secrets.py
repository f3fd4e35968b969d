"""Which values are secrets, and that texts, data and command lines without them are the same otherwise."""

import time

import pytest

from farabio_like.config.config import Config
from farabio_like.config.secrets import MASKED, Secrets, is_masked, masked_state, restored

SECRET = """
api_token token Token hf_token token_hf api_tokens password db_password userPassword password2 passwd PWD client_secret
secret secrets AWS_SECRET_ACCESS_KEY aws_access_key_id api_key apiKey APIKey apikey wandb-api-key wandb_key PRIVATE_KEY
authorization Authorization auth basic_auth smtp_pass credentials cookie slack_webhook bearer accessToken jwt passphrase
""".split()
NO_SECRET = """
pad_token num_tokens max_tokens special_tokens mask_token_id token_type tokens_per_batch per_token_loss tokenizer author
sort_key key image_key monkey keypoints public_key auth_url second_pass n_pass passes compass secretary pin_memory lr
""".split()


@pytest.mark.parametrize("name", SECRET)
def test_what_has_the_name_of_a_secret_is_one(name):
    assert Secrets().values({name: "x1"}) == {name: MASKED}
    assert Secrets().values({"a": [{"b": {name: ("x1", b"x2")}}]}) == {"a": [{"b": {name: (MASKED, MASKED)}}]}
    assert Secrets().leaves({f"wandb.{name}": "x1", f"{name}.0": "x2"}) == {
        f"wandb.{name}": MASKED,
        f"{name}.0": MASKED,
    }
    assert Secrets().arguments([f"--{name}", "x1", f"--{name}=x 2", f"a.{name}=x3"])[1:] == [
        MASKED,
        f"--{name}={MASKED}",
        f"a.{name}={MASKED}",
    ]
    assert Secrets().text(f"https://h/?a=1&{name}=x1&b=2") == f"https://h/?a=1&{name}={MASKED}&b=2"
    assert Secrets().text(f"Client({name}='x1 x2', n=3)") == f"Client({name}='{MASKED}', n=3)"


@pytest.mark.parametrize("name", NO_SECRET)
def test_what_only_sounds_like_it_is_none(name):
    data = {name: "x1", "a": [{name: 5}]}
    assert Secrets().values(data) == data
    words = [f"--{name}", "x1", f"--{name}=x2"]
    assert Secrets().arguments(words) == words and Secrets().text(f"{name}='x1'") == f"{name}='x1'"


def test_values_that_are_no_secret_under_any_name():
    data = {"token": None, "api_key": "", "use_password": True, "tokens": 512, "password_length": 8, "secret_dim": 64}
    assert Secrets().values(data) == data
    assert Secrets().values({"password": 1234, "token": 5.0}) == {"password": MASKED, "token": MASKED}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pw@host/x?n=1", "https://*@host/x?n=1"),
        ("https://ghp_x@github.com/a.git", "https://*@github.com/a.git"),
        ("postgresql+psycopg2://u:p/a@s:s@h:1/d", "postgresql+psycopg2://*@h:1/d"),
        ("http://host:8080/a@2x.png", None),
        ("git@github.com:a/b.git", None),
        ("http://h:80 and a@b", None),
        ("https://h/?token=a&n=3&key=b#access_token=c", "https://h/?token=*&n=3&key=*#access_token=*"),
        ("https://h/?X-Amz-Credential=a&X-Amz-Signature=b&X-Amz-Date=1", "https://h/?X-Amz-Credential=*&X-Amz-Signature=*&X-Amz-Date=1"),
        ("Authorization: Bearer a b", "Authorization: *"),
        ("curl -H 'Authorization: Token a' h", "curl -H 'Authorization: *' h"),
        ("{'headers': ['Bearer abcdefgh']}", "{'headers': ['Bearer *']}"),
        ('{"api_key": "a\\"b", "lr": 1}', '{"api_key": "*", "lr": 1}'),
        ("Server=h;User=u;Password=p;AccountKey=k==;", "Server=h;User=u;Password=*;AccountKey=*;"),
        ("token: null, password=", None),
        ("epoch 3: loss=0.5, key='a'", None),
    ],
)  # fmt: skip
def test_texts(text, shown):
    assert Secrets().text(text) == (text if shown is None else shown.replace("*", MASKED))


def test_a_known_secret_is_one_in_every_other_text():
    known = Secrets({"login": {"token": "SECRET456"}}, arguments=["a", "--api-key", "hunter2222", "--n", "3"])
    assert known.text("no SECRET456, hunter2222!") == f"no {MASKED}, {MASKED}!"
    assert known.arguments(["a", "-k", "SECRET456", "-vSECRET456"]) == ["a", "-k", MASKED, f"-v{MASKED}"]
    assert known.values({"header": "x SECRET456"}) == {"header": f"x {MASKED}"}
    assert Secrets({"password": "resnet"}).text("resnet50") == "resnet50", "too short to be looked for"


def test_a_command_line_keeps_the_rest():
    given = "train.py --tokens a b --use-auth -v --lr 0.1 --password -abc --num_tokens 5 --auth u p --n 3".split()
    shown = f"train.py --tokens {MASKED} {MASKED} --use-auth -v --lr 0.1 --password {MASKED} --num_tokens 5 --auth "
    assert Secrets().arguments(given) == f"{shown}{MASKED} {MASKED} --n 3".split()
    assert Secrets().arguments(["--c", '{"password": "x"}', "-m"]) == ["--c", f'{{"password": "{MASKED}"}}', "-m"]


def test_a_configuration_is_printed_without_and_read_with_them():
    config = Config({"api_token": "x1", "db": {"password": "x2"}, "lr": 0.1})
    assert (
        repr(config)
        == str(config)
        == f"Config({{'api_token': '{MASKED}', 'db': {{'password': '{MASKED}'}}, 'lr': 0.1}})"
    )
    assert config.api_token == "x1" and config.db.password == "x2" and config.to_dict()["api_token"] == "x1"


def test_a_state_gets_back_the_secrets_of_now():
    state = {"token": "x1", "n": 3, "urls": ["https://u:p@h/", "b"], "deep": {"password": b"x2", "pin": 5}, "secret": 7}
    masked = masked_state(state, Secrets())
    assert masked == {
        "token": MASKED, "n": 3, "urls": [f"https://{MASKED}@h/", "b"], "deep": {"password": MASKED, "pin": 5},
        "secret": 7,
    }  # fmt: skip
    now = {"token": "y1", "n": 9, "urls": ["https://v:q@h/"], "deep": {"password": b"y2"}}
    assert restored(masked, now) == {
        **state,
        "token": "y1",
        "urls": ["https://v:q@h/", "b"],
        "deep": {"password": b"y2", "pin": 5},
    }
    assert restored(masked, None) == {**state, "token": None, "urls": [None, "b"], "deep": {"password": None, "pin": 5}}
    assert is_masked(masked) and not is_masked(state) and restored(state, now) is state


@pytest.mark.parametrize(
    "text",
    ["a" * 200_000, "://a:" * 20_000, "a-" * 50_000, "token=" * 20_000, "'" * 200_000, "token='" * 20_000, "a:" * 50_000
    ],
    ids=lambda text: text[:7],
)  # fmt: skip
def test_no_text_takes_long(text):
    started = time.process_time()
    Secrets({"token": "SECRET456"}).text(text)
    assert time.process_time() - started < 5  # a quadratic search would take minutes
