"""What the framework itself says, and is to be told as it says it."""

# mypy: ignore-errors
# ruff: noqa: PT009, PT015
import unittest

import pytest


# = passed
def test_passes():
    pass


# = failed in call: assert 1 == 2
def test_fails():
    assert 1 == 2


# = skipped: why not
def test_skips():
    pytest.skip("why not")


# = xfailed: a bug
@pytest.mark.xfail(reason="a bug")
def test_expected():
    assert 0


# = xpassed: a bug
@pytest.mark.xfail(reason="a bug")
def test_unexpected():
    pass


# = xfailed: a bug
@pytest.mark.xfail(reason="a bug", strict=True)
def test_strict():
    assert 0


# = failed in call: [XPASS(strict)] a bug
@pytest.mark.xfail(reason="a bug", strict=True)
def test_strict_that_passes():
    pass


# = failed in call: ValueError
@pytest.mark.xfail(raises=KeyError)
def test_expects_another_exception():
    raise ValueError


# = crashed in call: exited with 0
@pytest.mark.xfail
def test_expected_to_fail_but_leaves():
    import os

    os._exit(0)


# = xfailed: from here on
def test_marks_itself(request):
    request.node.add_marker(pytest.mark.xfail(reason="from here on"))
    assert 0


# = xfailed: now
def test_xfails():
    pytest.xfail("now")


@pytest.fixture
def broken():
    raise LookupError("nothing there")


# = error in setup: LookupError: nothing there
def test_broken_fixture(broken):
    pass


@pytest.fixture
def breaks():
    yield
    raise LookupError("nothing left")


# = error in teardown: LookupError: nothing left
def test_breaking_fixture(breaks):
    pass


# = failed in call: assert 0
def test_fails_twice(breaks):
    assert 0


# = error in setup: fixture 'nobody_has_it' not found
def test_without_fixture(nobody_has_it):
    pass


class Case(unittest.TestCase):
    # = skipped: not here
    def test_skip(self):
        self.skipTest("not here")

    # = xfailed
    @unittest.expectedFailure
    def test_method_that_is_expected_to_fail(self):
        self.fail()

    # = failed in call
    def test_method_fails(self):
        self.assertEqual(1, 2)

    # = failed in call
    def test_one_of_its_parts_fails(self):
        for number in range(3):
            with self.subTest(number=number):
                self.assertNotEqual(number, 1)


# = failed in call
def test_one_of_its_subtests_fails(subtests):
    for number in range(3):
        with subtests.test(number=number):
            assert number != 1


# = passed
def test_all_subtests_pass(subtests):
    for number in range(3):
        with subtests.test(number=number):
            pass
