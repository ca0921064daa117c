"""Good tests and hostile ones, which share a sandbox as long as it lasts."""

# mypy: ignore-errors
# ruff: noqa: PT015
import os
import signal
import threading

import pytest
from _pytest.reports import TestReport


@pytest.fixture(scope="module")
def shared():
    return []


# = passed
def test_a_passes(shared):
    shared.append(1)


# = failed in call: assert 1 == 2
def test_b_fails(shared):
    assert 1 == 2


# = crashed in call: exited with 0 [exit 0]
def test_c_leaves():
    os._exit(0)


# = passed
def test_d_passes(shared):
    assert shared == []


# = crashed in call: SIGKILL [signal 9]
def test_e_kills_itself():
    os.kill(os.getpid(), signal.SIGKILL)


# = failed in call: assert 1 == 2
def test_f_fails():
    assert 1 == 2


# = error in call: was replaced
def test_g_patches():
    TestReport.from_item_and_call = classmethod(
        lambda cls, item, call: cls(item.nodeid, item.location, {}, "passed", None, call.when)
    )
    assert 0


# = passed
def test_h_passes():
    pass


# = failed in call: assert 1 == 2
def test_i_fails():
    assert 1 == 2


# = error in call: it ended the session with Exit: ok
def test_j_ends_the_session():
    pytest.exit("ok", 0)


# = skipped: why not
def test_k_skips():
    pytest.skip("why not")


# = failed in call: assert 0
def test_l_stops_the_session(request):
    request.session.shouldstop = "all is well"
    assert 0


# = passed
def test_m_passes():
    pass


# = error in call: it wrote to the line
def test_n_writes_to_the_line():
    os.write(1000, bytes(100))
    threading.Event().wait()


# = passed
def test_o_passes():
    pass


# = timeout in call: took longer than
def test_p_hangs():
    threading.Event().wait()


# = passed
def test_q_passes():
    pass


# = failed in call: assert 0
def test_r_takes_away_the_others(request):
    del request.session.items[1:]
    assert 0


# = passed
def test_s_passes():
    pass


# = failed in call: assert 0
def test_t_renames_the_others(request):
    for item in request.session.items:
        if item is not request.node:
            item._nodeid = "test_mixed.py::test_u_fails"
    assert 0


# = failed in call: assert 1 == 2
def test_u_fails():
    assert 1 == 2


# = failed in call: assert 0
def test_v_has_the_others_pass(request):
    for item in request.session.items:
        if item is not request.node:
            item.obj = lambda **more: None
            item.runtest = lambda: None
    assert 0


# = passed
def test_w_passes():
    pass


# = error in call: it ended the session with KeyboardInterrupt
def test_x_interrupts():
    raise KeyboardInterrupt


# = failed in call: assert 1 == 2
def test_y_fails():
    assert 1 == 2


# = failed in call: assert 0
def test_z_leaves_a_thread():
    threading.Thread(target=threading.Event().wait).start()
    assert 0
