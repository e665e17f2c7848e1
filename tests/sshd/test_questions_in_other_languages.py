"""What a host asks at a login, in its own words (keyboard-interactive)."""

from __future__ import annotations

import pytest

from lazycluster import Connection
from lazycluster._ssh.options import PROMPTS_NAME_HOSTS, ssh_version
from lazycluster.exceptions import AuthenticationError
from support.other_servers import AsyncsshServer

pytestmark = pytest.mark.skipif(
    ssh_version() < PROMPTS_NAME_HOSTS, reason="this ssh shows a host's question as its own"
)


@pytest.fixture
def ask(tmp_path):
    """Log in with a password to a host that asks these questions; return the answers it got."""

    def log_in(*challenges, **settings):
        (tmp_path / "server").mkdir()
        with AsyncsshServer(tmp_path / "server", challenges) as server:
            try:
                connection = Connection(
                    server.alias,
                    config_file=server.config_file,
                    connect_timeout=150,
                    password="secret",
                    **settings,
                )
                with connection:
                    assert connection.run("echo in").stdout == "in\n"
            finally:
                lines = server.log.read_text().splitlines()
                # ssh may answer nothing to a question that got no answer, before it is ended.
                given = (line for line in lines if line.startswith("answer"))
                answers.extend(line for line in given if line != "answer: ")
        return answers

    answers = []
    log_in.answers = answers
    return log_in


@pytest.mark.parametrize(
    "prompt",
    [
        "Password: ",
        "Password for ann@EXAMPLE.ORG:",
        "Password (LDAP):",
        "Mot de passe :",
        "Passwort:",
        "Contraseña: ",
        "Пароль: ",
        "密码：",  # noqa: RUF001
        "パスワード:",
        "[sudo] secret phrase, please> ",
    ],
)
def test_a_password_is_the_answer_in_any_language(ask, prompt):
    assert ask(prompt, "secret") == ["answer: secret"]


@pytest.mark.parametrize(
    "prompt",
    [
        "Verification code: ",
        "Einmalkennwort: ",
        "Code de vérification :",
        "验证码：",  # noqa: RUF001
        "New password:",
    ],
)
def test_a_password_is_not_the_answer_to_another_question(ask, prompt):
    """The error quotes it, and names the parameter that would help."""
    with pytest.raises(AuthenticationError, match=r"not recognised.*password_prompt=") as caught:
        ask(prompt, "secret")
    assert prompt.strip() in str(caught.value)
    assert "secret" not in str(caught.value)
    assert ask.answers == []


def test_a_pattern_names_the_question(ask):
    assert ask("Verification code: ", "secret", password_prompt="(?i)code") == ["answer: secret"]


def test_a_pattern_excludes_other_questions(ask):
    with pytest.raises(AuthenticationError, match=r"Passwort.*password_prompt="):
        ask("Passwort: ", "secret", password_prompt="LDAP")
    assert ask.answers == []


def test_a_password_is_given_once(ask):
    """A second question is another factor, or the answer was wrong."""
    with pytest.raises(AuthenticationError, match="not accepted"):
        ask("Passwort: ", "secret", "Zweites Passwort: ", "other")
    assert ask.answers == ["answer: secret"]
