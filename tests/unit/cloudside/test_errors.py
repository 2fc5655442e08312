from cloudside.errors import ConfigurationError, InputError, InputErrors, RefusedError, UnavailableError, combined


def test_error_shows_key_and_parameters() -> None:
    assert str(InputError("registry.unknown-site", site="x")) == "registry.unknown-site (site='x')"
    assert str(InputError("a.b")) == "a.b"


def test_whose_fault_it_is_shows_in_the_status() -> None:
    classes = (InputError, RefusedError, ConfigurationError, UnavailableError)
    assert [(one.exit_code, one.http_status) for one in classes] == [(2, 422), (3, 403), (4, 500), (5, 503)]


def test_one_problem_stays_itself_and_several_become_one() -> None:
    one, other = InputError("a.one"), InputError("a.other", n=2)
    assert combined([one]) is one
    both = combined([one, other])
    assert isinstance(both, InputErrors)
    assert both.problems == (one, other)
    assert both.params == {"count": 2, "problems": "a.one; a.other (n=2)"}
